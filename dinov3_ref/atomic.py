"""Write files and folders that appear complete or not at all: the only place of this package that renames.

The reference imports nothing of the runtime, whose own place is `dinodeploy/files/atomic.py`.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A hidden name to write a file or folder to; it replaces `target` at the end of the block.

    After an error nothing is left, and `target` is as it was.
    """
    draft = hidden_name(target)
    try:
        yield draft
        publish(draft, target)
    finally:
        remove(draft)


def hidden_name(target: Path) -> Path:
    """A new hidden sibling with the suffix of `target`.

    Random, because process ids repeat: in two containers on one volume, and after a crash.
    """
    return target.with_name(f".partial-{secrets.token_hex(8)}-{target.name}")


def leftovers(target: Path) -> list[Path]:
    """What stopped processes left beside `target`."""
    return sorted(target.parent.glob(f".partial-{'[0-9a-f]' * 16}-{target.name}"))


def publish(draft: Path, target: Path) -> None:
    """Rename `draft` to `target`; an existing folder, which a rename cannot replace, is renamed first."""
    if target.is_dir() or (target.exists() and draft.is_dir()):
        aside = hidden_name(target)
        target.rename(aside)
        try:
            draft.rename(target)
        except OSError:
            aside.rename(target)
            raise
        remove(aside)
    else:
        draft.replace(target)


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    """Append to a file, and flush it to disk."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
