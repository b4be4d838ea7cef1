"""Python's start-up hook: the file system has the fault that $FS_FAULT names.

dirsync        directories cannot be flushed (EINVAL)     nolink    no hard links (EPERM)
nosync         nothing can be flushed (ENOSYS)             ino0      inodes of directories are 0
flock-ENOLCK   no locks, with any errno                   noexec    nothing can be made executable
inodes         stat and fstat give different inodes
full           the disk is full: ENOSPC on every write    readonly  EROFS on everything but reading
"""

import errno
import fcntl
import os
import pathlib
import stat
from typing import Any

FAULT = os.environ["FS_FAULT"]
OUT = os.environ.get("FS_OUT", "/nowhere")  # where the disk is full or cannot be written


def fail(code: int) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return call


_fsync, _open, _mkdir, _stat, _chmod = os.fsync, os.open, os.mkdir, pathlib.Path.stat, os.chmod


def flush(descriptor: int) -> None:
    if FAULT == "nosync":
        raise OSError(errno.ENOSYS, "Function not implemented")
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "Invalid argument")
    _fsync(descriptor)


class OtherInode:
    """A result of stat with another inode number; 0: none."""

    def __init__(self, status: os.stat_result, number: int) -> None:
        self._status = status
        self._number = number

    def __getattr__(self, name: str) -> Any:
        return self._number if name == "st_ino" else getattr(self._status, name)


def stat_without_inode(self: pathlib.Path, **named: Any) -> Any:
    status = _stat(self, **named)
    return OtherInode(status, 0) if stat.S_ISDIR(status.st_mode) else status


def stat_with_another_inode(self: pathlib.Path, **named: Any) -> Any:
    status = _stat(self, **named)
    return OtherInode(status, status.st_ino + 1)


def open_file(path: Any, flags: int, *rest: Any, **named: Any) -> int:
    if flags & (os.O_WRONLY | os.O_RDWR) and os.fsdecode(path).startswith(OUT):
        code = errno.ENOSPC if FAULT == "full" else errno.EROFS
        raise OSError(code, os.strerror(code), path)
    return _open(path, flags, *rest, **named)


def make_folder(path: Any, *rest: Any, **named: Any) -> None:
    if os.fsdecode(path).startswith(OUT):
        code = errno.ENOSPC if FAULT == "full" else errno.EROFS
        raise OSError(code, os.strerror(code), path)
    _mkdir(path, *rest, **named)


if FAULT in ("dirsync", "nosync"):
    os.fsync = flush
elif FAULT.startswith("flock-"):
    fcntl.flock = fail(getattr(errno, FAULT.removeprefix("flock-")))
elif FAULT == "nolink":
    os.link = fail(errno.EPERM)
elif FAULT == "noexec":
    os.chmod = fail(errno.EPERM)
elif FAULT == "inodes":
    pathlib.Path.stat = stat_with_another_inode  # type: ignore[assignment]
elif FAULT == "ino0":
    pathlib.Path.stat = stat_without_inode  # type: ignore[assignment]
elif FAULT in ("full", "readonly"):
    os.open, os.mkdir = open_file, make_folder
