"""Put a new directory in the place of an old one so that a crash at any moment leaves one of the two there.

Linux exchanges two names in one step (renameat2, https://man7.org/linux/man-pages/man2/rename.2.html). Where
the system or the file system cannot, the old directory is renamed first: to a hidden name, under which
`restore` finds it after a crash.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dinodeploy.files.regular import hidden_name
from dinodeploy.files.unfinished.held import hold, release, remove_abandoned

PARTIAL, OLD = "partial", "old"  # kinds of hidden names
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names on one file system, in one step; False where the system cannot do that."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))


def displace(target: Path) -> tuple[Path, int | None]:
    """Rename an existing directory to a hidden name, and hold it: where `exchange` cannot be used."""
    old = hidden_name(target, OLD)
    held = hold(target)
    try:
        target.rename(old)
    except BaseException:  # a signal may come just after it
        if old.exists():
            old.rename(target)
        release(held)
        raise
    return old, held


def restore(target: Path) -> None:
    """Give a directory its name back where a process was killed just after `displace`; errors are ignored."""
    if os.path.lexists(target) or not target.name:
        return
    with suppress(OSError):
        for old in sorted(_hidden(target, OLD), key=lambda path: path.lstat().st_mtime, reverse=True):
            held = hold(old)
            if held is None:  # the process still runs
                return
            try:
                old.rename(target)
                return
            finally:
                release(held)


def remove_leftovers(target: Path) -> None:
    """Remove what killed processes left beside `target`; what running ones write stays."""
    with suppress(OSError):
        remove_abandoned(_hidden(target, PARTIAL))
        if os.path.lexists(target):
            remove_abandoned(_hidden(target, OLD))


def _hidden(target: Path, kind: str) -> Iterator[Path]:
    """The hidden names of this kind beside `target`, whichever process made them."""
    start, digits = hidden_name(target, kind).name.rsplit("-", 1)
    pattern = re.compile(rf"{re.escape(start)}-[0-9a-f]{{{len(digits)}}}(\.\w+)?")
    with os.scandir(target.parent) as entries:
        names = [entry.name for entry in entries if pattern.fullmatch(entry.name)]
    if start == f".{target.name}.{kind}":  # a long name is cut off, and may be that of another target
        yield from (target.with_name(name) for name in names)
