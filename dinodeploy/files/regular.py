"""Open and create regular files only: a FIFO, socket or device could block or never end.

Files of bundles, stores and archives are opened here, and new files are created here: never through a link
that another user left at the name, and never over a file that exists.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag; `lstat` beforehand refuses a link there
_BUFFER = 1 << 16
_NAME_BYTES = 100  # of a name inside a hidden name; file systems allow 255 in all, encrypted ones 143


def open_regular(path: str | Path, *, follow: bool = True) -> BinaryIO:
    """Open `path` for reading. Raises OSError, also for anything but a regular file.

    It is checked before opening, because opening some devices has effects, and again afterwards, because
    another process may have replaced it. follow=False refuses a link at the end of the path.
    """

    def opener(name: str, flags: int) -> int:
        before = os.stat(name, follow_symlinks=follow)  # noqa: PTH116  a third of the time of Path.stat
        _require_regular(before)
        handle = os.open(name, READ | (0 if follow else NO_LINK))
        try:
            after = os.fstat(handle)
            _require_regular(after)
            if not follow and not os.path.samestat(before, after):
                raise OSError("replaced while it was opened")
        except BaseException:
            os.close(handle)
            raise
        return handle

    try:
        return open(path, "rb", _BUFFER, opener=opener)  # with no size, `open` asks whether it is a terminal
    except ValueError as error:  # a null byte in the name
        raise OSError(str(error)) from error


def read_regular(path: str | Path, *, follow: bool = True) -> bytes:
    """The content of a regular file. Raises OSError as `open_regular`."""
    with open_regular(path, follow=follow) as file:
        return file.read()


def is_regular(path: str | Path) -> bool:
    """Whether `path` itself, and not what it links to, is a regular file."""
    try:
        return stat.S_ISREG(Path(path).lstat().st_mode)
    except (OSError, ValueError):
        return False


def create_file(path: str | Path) -> BinaryIO:
    """Create `path` for writing and reading. Raises FileExistsError for anything at that name, a link too."""
    return open(path, "x+b", opener=lambda name, flags: os.open(name, flags | NO_LINK, 0o666))


def hidden_name(target: Path, kind: str) -> Path:
    """A new hidden sibling of `target`: `.NAME.KIND-` and 16 random hexadecimal digits.

    Random, because process ids repeat: in two containers on one volume, and after a crash.
    """
    name = os.fsencode(target.name)[:_NAME_BYTES].decode(errors="ignore")  # no half character: macOS, Windows
    return target.with_name(f".{name}.{kind}-{os.urandom(8).hex()}")


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
