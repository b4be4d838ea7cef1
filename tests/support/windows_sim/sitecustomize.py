"""Python's start-up hook: Windows, as far as Linux can pretend, for the code of our packages.

Modules and functions that Windows lacks are missing. A file that this process has open or mapped can be
neither renamed, replaced nor removed. A directory cannot be opened, a descriptor that only reads cannot be
flushed, a rename does not replace. Locks are `msvcrt.locking`'s. `os.name` stays "posix", because the
standard library and other packages would load what is not there.
"""

import builtins
import errno
import fcntl
import importlib
import os
import shutil
import signal
import struct
import sys
import types
from typing import Any

OURS = tuple(f"{os.sep}{package}{os.sep}" for package in ("dinodeploy", "exporters", "dinov3_ref"))
MODULES = ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty", "syslog", "readline", "curses")
OF_OS = (
    *("sched_getaffinity", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_CLOEXEC", "fchmod", "mkfifo"),
    *(
        "pread",
        "pwrite",
        "statvfs",
        "sync",
        "killpg",
        "getpgid",
        "setsid",
        "posix_fadvise",
        "getuid",
        "geteuid",
    ),
)
SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGHUP", "SIGKILL", "SIGCHLD", "SIGPIPE", "pthread_kill")
_OFD_SETLK = 37


def ours(depth: int = 2) -> bool:
    """Whether the caller's caller is code of our packages."""
    name = sys._getframe(depth).f_code.co_filename
    return "site-packages" not in name and any(part in name for part in OURS)


def locking(descriptor: int, mode: int, count: int) -> None:
    """msvcrt's, without waiting."""
    start = os.lseek(descriptor, 0, os.SEEK_CUR)
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, count, 0)
    try:
        fcntl.fcntl(descriptor, _OFD_SETLK, request)
    except BlockingIOError as error:
        raise PermissionError(errno.EACCES, "Permission denied") from error


MSVCRT: Any = types.ModuleType("msvcrt")
MSVCRT.locking, MSVCRT.LK_NBLCK = locking, 2
_import, _import_module = builtins.__import__, importlib.import_module


def refuse(name: str) -> None:
    if name.partition(".")[0] in MODULES and ours(3):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def import_statement(name: str, *rest: Any, **named: Any) -> Any:
    refuse(name)
    return _import(name, *rest, **named)


def import_module(name: str, package: "str | None" = None) -> Any:
    refuse(name)
    return MSVCRT if name == "msvcrt" and ours() else _import_module(name, package)


_open, _fsync = os.open, os.fsync


def open_file(path: Any, flags: int, mode: int = 0o777, **named: Any) -> int:
    if not flags & os.O_CREAT and ours() and os.path.isdir(path):  # noqa: PTH112
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
    return _open(path, flags, mode, **named)


def flush(descriptor: Any) -> None:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    _fsync(number)


def held(path: Any) -> str:
    """A file at or below `path` that this process has open or mapped."""
    top = os.path.realpath(os.fsdecode(path))
    files = set()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            files.add(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115
        except OSError:
            continue
    with open("/proc/self/maps") as maps:  # noqa: PTH123
        files.update(line.split(None, 5)[-1].rstrip("\n") for line in maps)
    return next((file for file in sorted(files) if file == top or file.startswith(f"{top}/")), "")


def guard(name: str, paths: int) -> None:
    real = getattr(os, name)

    def guarded(*arguments: Any, **named: Any) -> Any:
        for path in arguments[:paths]:
            if not named.get("dir_fd") and not os.path.islink(path) and (file := held(path)):  # noqa: PTH114
                raise PermissionError(errno.EACCES, f"[WinError 32] in use: {file}", os.fspath(path))
        if name == "rename" and os.path.lexists(arguments[1]):
            raise FileExistsError(errno.EEXIST, "[WinError 183] exists", os.fspath(arguments[1]))
        return real(*arguments, **named)

    setattr(os, name, guarded)


for _name, _paths in (("rename", 2), ("replace", 2), ("unlink", 1), ("remove", 1), ("rmdir", 1)):
    guard(_name, _paths)
for _name in OF_OS:
    if hasattr(os, _name):
        delattr(os, _name)
for _name in SIGNALS:
    if hasattr(signal, _name):
        delattr(signal, _name)
os.supports_dir_fd.clear()
os.open, os.fsync = open_file, flush
shutil._use_fd_functions = False  # type: ignore[attr-defined]
builtins.__import__, importlib.import_module = import_statement, import_module
