"""Tell the unfinished files of a running process from those of a process that was killed.

A process holds a lock on each hidden file or folder that it writes; the lock ends with the process.
On a system or a file system without such locks nothing counts as abandoned, and leftovers stay.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dinodeploy.files.lock import can_rename_open_files, lock
from dinodeploy.files.regular import NO_LINK

NOTHING = -1  # held where the system has no locks on such a file


def hold(path: Path) -> int | None:
    """Hold a file or folder that this process has just created, until `release`.

    None: another process took it for abandoned and removes it; create another one.
    """
    if not can_rename_open_files():
        return NOTHING
    try:
        descriptor = os.open(path, os.O_RDONLY | NO_LINK | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return None
    except OSError:
        return NOTHING
    try:
        if lock(descriptor) and not os.path.lexists(path):  # no inodes: some file systems make them up
            raise BlockingIOError
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # NFS locks only what is open for writing
        pass
    return descriptor


def release(held: int | None) -> None:
    """End `hold`."""
    if held is not None and held != NOTHING:
        os.close(held)


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove those of the hidden files and folders that no process holds. Errors are ignored."""
    for path in paths if can_rename_open_files() else ():
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | NO_LINK | getattr(os, "O_NONBLOCK", 0))
            try:
                if lock(descriptor) and _is_still(path, descriptor):
                    remove(path)
            finally:
                os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a folder with everything in it, a file or a link; errors are ignored.

    A signal does not stop it: its exception is raised when all is removed.
    """
    try:
        _remove(path)
    except BaseException as error:
        _remove(path)
        if not isinstance(error, OSError):  # that of `rmtree`, which a signal makes close a folder twice
            raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
