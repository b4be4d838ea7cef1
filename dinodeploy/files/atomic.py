"""Write a file or a directory atomically.

Everything is written next to the target under a hidden name, flushed to disk, and renamed into place. After a
crash, a full disk or Ctrl-C the target is as it was; at worst a `.NAME.partial-…` remains.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dinodeploy.files.regular import create_file, hidden_name


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write; it replaces `path` when the block ends without an exception."""
    partial = partial_path(path)
    file = create_file(partial)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """An empty directory, which replaces `target` at the end of the block; after an error nothing is left."""
    partial = begin_directory(target)
    try:
        yield partial
        commit_directory(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def begin_directory(target: Path) -> Path:
    """Make an empty directory, which `commit_directory` later moves to `target`; parents included."""
    partial = partial_path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir()
    return partial


def commit_directory(partial: Path, target: Path) -> None:
    """Replace `target` with `partial`; the caller has decided that an existing target may go."""
    sync_tree(partial)
    if not target.exists():
        partial.rename(target)
    else:
        old = hidden_name(target, "old")
        target.rename(old)
        try:
            partial.rename(target)
        except BaseException:
            old.rename(target)
            raise
        shutil.rmtree(old)
    sync(target.parent)


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
        source.replace(target)
    folders = [target.parent for _, target in pairs]
    for folder in dict.fromkeys([*folders, *(folder.parent for folder in folders)]):
        sync(folder)


def sync_tree(path: Path) -> None:
    """Flush a file, or a directory with everything in it, to disk."""
    for folder, _, files in os.walk(path):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))
    if not path.is_dir():
        sync(path)


def partial_path(target: Path) -> Path:
    """A new hidden sibling, which is written first and then renamed to `target`."""
    return hidden_name(target, "partial")


def sync(path: Path) -> None:
    """Flush a file, or the entries of a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
