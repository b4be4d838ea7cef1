"""Open regular files only: a FIFO, socket or device could block or never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path) -> BinaryIO:
    """Open `path` for reading; links are followed. Raises OSError, also for anything but a regular file.

    It is checked before opening, because opening some devices has effects, and again afterwards, because
    another process may have replaced it.
    """
    try:
        _require_regular(Path(path).stat())
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a null byte in the name
        raise OSError(str(error)) from error
    try:
        _require_regular(os.fstat(handle))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
