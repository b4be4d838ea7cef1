"""Write a file or a directory atomically.

Everything is written next to the target under a hidden name, flushed to disk, and renamed into place. After a
crash, a full disk or Ctrl-C the target is as it was; at worst a `.NAME.partial-…` remains, which the next
write to the same target removes.

Files are flushed through the descriptor that wrote them, or, where another library wrote them, through one
that may write: Windows flushes no other. Windows and some network file systems cannot flush a directory; the
write is then done without, and a note says so once.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from dinodeploy.files.notes import note_once
from dinodeploy.files.regular import NO_LINK, create_file, hidden_name
from dinodeploy.files.unfinished.exchange import PARTIAL, displace, exchange, remove_leftovers, restore
from dinodeploy.files.unfinished.held import hold, release, remove

T = TypeVar("T")

# What systems answer that cannot flush this descriptor, or open it to do so. A disk that fails says EIO.
_CANNOT_FLUSH = {
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS),
    *(errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR, errno.EROFS),
}
_HELD: dict[Path, int] = {}  # hidden name -> what `hold` gave
# Windows refuses to replace a file that another process reads, or that a virus scanner has just opened.
_RETRIES = (0.01, 0.05, 0.2, 0.5, 1.0) if os.name == "nt" else ()  # seconds


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write; it replaces `path` when the block ends without an exception."""
    partial, file = _begin(path, create_file)
    try:
        with file:
            yield file
            file.flush()
            _flush(file.fileno(), path)
    except BaseException:
        _discard(partial)
        raise
    _publish(partial, path)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """The name of an empty file, with the suffix of `path`, for a library that opens files by name.

    It replaces `path` when the block ends without an exception.
    """
    partial, file = _begin(path, create_file, path.suffix)
    file.close()
    try:
        yield partial
        sync(partial)
    except BaseException:
        _discard(partial)
        raise
    _publish(partial, path)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """An empty directory, which replaces `target` at the end of the block; after an error nothing is left."""
    partial = begin_directory(target)
    try:
        yield partial
        commit_directory(partial, target)
    finally:
        discard_directory(partial)


def begin_directory(target: Path) -> Path:
    """Make an empty directory, which `commit_directory` later moves to `target`; parents included."""
    target.parent.mkdir(parents=True, exist_ok=True)
    restore(target)
    partial, _ = _begin(target, Path.mkdir)
    return partial


def discard_directory(partial: Path) -> None:
    """Remove what `begin_directory` made; nothing happens after `commit_directory`."""
    _discard(partial)


def commit_directory(partial: Path, target: Path) -> None:
    """Replace `target` with `partial`; the caller has decided that an existing target may go.

    In one step where the system can; after a crash elsewhere, `restore` and the next write find the old one.
    """
    sync_tree(partial)
    if not os.path.lexists(target):
        replace(partial, target)
        sync(target.parent)
    elif exchange(partial, target):
        sync(target.parent)
        remove(partial)
    else:
        _replace_in_two_steps(partial, target)
    _release(partial)


def _replace_in_two_steps(partial: Path, target: Path) -> None:
    old, held = displace(target)
    try:
        replace(partial, target)
        sync(target.parent)
        remove(old)
    except BaseException:
        if os.path.lexists(target):  # a signal came after it
            remove(old)
        else:
            replace(old, target)
        raise
    finally:
        release(held)


def move_into_place(moves: Iterable[tuple[Path, Path]]) -> None:
    """Rename each source to its target, in order, replacing targets; durable when this returns.

    All files are flushed before the first is moved, so no name ever stands for an incomplete file. Sources
    and targets must be on one file system.
    """
    pairs = list(moves)
    for source, _ in pairs:
        sync_tree(source)
    for source, target in pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        replace(source, target)
    folders = [target.parent for _, target in pairs]
    for folder in dict.fromkeys([*folders, *(folder.parent for folder in folders)]):
        sync(folder)


def _begin(target: Path, make: Callable[[Path], T], suffix: str = "") -> tuple[Path, T]:
    """Make a hidden sibling of `target` and hold it, after removing those of killed processes."""
    remove_leftovers(target)
    while True:
        partial = hidden_name(target, PARTIAL)
        partial = partial.with_name(partial.name + suffix)
        try:
            made = make(partial)
            held = hold(partial)
            if held is not None:
                _HELD[partial] = held
                return partial, made
        except KeyboardInterrupt:
            _HELD.pop(partial, None)
            remove(partial)
            raise
        if hasattr(made, "close"):
            made.close()


def _release(partial: Path) -> None:
    release(_HELD.pop(partial, None))


def _discard(partial: Path) -> None:
    if partial in _HELD:
        remove(partial)
        _release(partial)


def replace(source: Path, target: Path) -> None:
    """Rename `source` to `target` and replace a file that is there, on every system."""
    for seconds in _RETRIES:
        try:
            source.replace(target)
            return
        except PermissionError:
            time.sleep(seconds)
    source.replace(target)


def sync_tree(path: Path) -> None:
    """Flush a file, or a directory with everything in it, to disk; links and devices are left alone."""
    for folder, _, files in os.walk(path):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))
    if not path.is_dir():
        sync(path)


def sync(path: Path) -> None:
    """Flush a regular file, or the entries of a directory, to disk where the system can."""
    kind = path.lstat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        return
    try:
        descriptor = _open_to_flush(path, writing=stat.S_ISREG(kind))
    except OSError as error:
        _tolerate(error, path)
        return
    try:
        _flush(descriptor, path)
    finally:
        os.close(descriptor)


def _publish(partial: Path, path: Path) -> None:
    try:
        replace(partial, path)
    except BaseException:
        _discard(partial)
        raise
    _release(partial)
    sync(path.parent)


def _open_to_flush(path: Path, *, writing: bool) -> int:
    flags = NO_LINK | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    if writing:
        try:
            return os.open(path, os.O_RDWR | flags)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY):
                raise
    return os.open(path, os.O_RDONLY | flags)  # a read-only file: POSIX flushes it all the same


def _flush(descriptor: int, path: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        _tolerate(error, path)


def _tolerate(error: OSError, path: Path) -> None:
    """Raise `error` unless it says that the system cannot flush."""
    if error.errno not in _CANNOT_FLUSH:
        error.filename = error.filename or str(path)
        raise error
    if os.name != "nt":  # there it is so for every directory; the file system's journal keeps the names
        note_once(
            "this file system cannot flush everything to disk; files written just before a power failure "
            "may be lost"
        )
