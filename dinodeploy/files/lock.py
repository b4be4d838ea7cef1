"""Lock an open file against other processes; the system ends the lock with its process.

`flock` where there is one. On Windows `msvcrt.locking`, which knows no shared locks and keeps others from
reading what is locked: the locked bytes are past the end of any file, a shared holder locks one of them and
an exclusive holder all. A file system without locks is told apart from a lock that another process holds.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import time
from types import ModuleType

_FIRST = 1 << 30  # byte, past the end of every file that is locked here
_TICK = 0.01  # seconds between two tries
_SHARED = 256  # holders in parallel
# What file systems and systems without locks answer.
_WITHOUT = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file without waiting; False where the file system has no locks.

    Raises BlockingIOError when another process holds it. It is held until the descriptor is closed.
    """
    try:
        if (fcntl := _module("fcntl")) is not None:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        elif (msvcrt := _module("msvcrt")) is not None:
            _lock_bytes(msvcrt, descriptor, shared)
        else:
            return False
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _WITHOUT:
            raise
        return False
    return True


def wait_for_lock(descriptor: int, seconds: float) -> bool:
    """Lock an open file as `lock`, and wait for another process; False when it still holds it then."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return lock(descriptor)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
        time.sleep(_TICK)


def can_rename_open_files() -> bool:
    """False on Windows: a file that is open, as for its lock, can be neither renamed nor removed."""
    return _module("fcntl") is not None


def _module(name: str) -> ModuleType | None:
    """`fcntl` and `msvcrt` exist on some systems only."""
    with contextlib.suppress(ImportError):
        return importlib.import_module(name)
    return None


def _lock_bytes(msvcrt: ModuleType, descriptor: int, shared: bool) -> None:
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    choices = range(_FIRST, _FIRST + _SHARED) if shared else [_FIRST]
    try:
        for first in choices:
            os.lseek(descriptor, first, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1 if shared else _SHARED)
                return
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EDEADLK, errno.EAGAIN):
                    raise
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)
    raise BlockingIOError(errno.EWOULDBLOCK, "another process holds the lock")
