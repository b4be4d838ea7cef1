"""Open a file that is a file: never a FIFO, a socket or a device, which would wait for ever or never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path) -> BinaryIO:
    """`path`, opened to be read, links followed. Raises OSError, of ours for what is no regular file.

    Looked at before it is opened, because to open some devices is to do something, and afterwards, because
    another process may have put something else there in between.
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
