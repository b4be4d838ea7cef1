"""Images in files: a folder, nested to any depth, or a text file that lists them.

A list has one path per line, optionally a tab and a label; relative paths start at its folder:

    n01440764/10026.jpg<TAB>tench
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dinov3_ref.data.datasets.encoded import EncodedImages, PackedText, require_some
from dinov3_ref.data.decoding import SUFFIXES
from dinov3_ref.errors import DataError


class _ImageFiles(EncodedImages):
    """Images in files, by their paths from the folder `root`."""

    root: Path
    paths: PackedText

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        return (self.root / self.paths[index]).read_bytes()

    def name(self, index: int) -> str:
        return str(self.root / self.paths[index])


class ImageFolder(_ImageFiles):
    """All images below `root`, by suffix, in sorted order; links are followed, hidden names are skipped.

    labelled: the class is the name of the folder directly below `root`. split: use `root/<split>` as root.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        labelled: bool = False,
        split: str | None = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.root = Path(root) / split if split else Path(root)
        self.transform = transform
        if not self.root.is_dir():
            raise DataError(f"'{self.root}' is not a folder; wanted a folder with images")
        paths = list(_walk(str(self.root), "", set()))
        require_some(len(paths), self.root, f"files that end in {' '.join(SUFFIXES)}")
        self.paths = PackedText(paths)
        if labelled:
            self.set_labels([_class_of(path, self.root) for path in paths])


def _walk(folder: str, prefix: str, entered: set[tuple[int, int]]) -> Iterator[str]:
    """Image paths relative to the root, with /. Each folder is entered once, so links cannot loop."""
    try:
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in entered:
            return
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            children = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"'{folder}' cannot be listed: {error.strerror}; fix or remove it") from error
    for entry in children:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", entered)
        elif entry.name.lower().endswith(SUFFIXES):
            yield prefix + entry.name


def _class_of(path: str, root: Path) -> str:
    name, slash, _ = path.partition("/")
    if not slash:
        raise DataError(f"'{root / path}' has no class; wanted a folder for each class below '{root}'")
    return name


class ImageList(_ImageFiles):
    """The images of a list, in its order. Either all lines have a label or none."""

    def __init__(
        self,
        path: str | Path,
        *,
        labelled: bool = False,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.root = self.path.parent
        self.transform = transform
        try:
            text = self.path.read_text("utf-8", "surrogateescape")
        except OSError as error:
            raise DataError(f"'{self.path}' cannot be read: {error.strerror}") from error
        rows = [line.partition("\t") for line in text.splitlines() if line.strip()]
        require_some(len(rows), self.path, "one path per line")
        self.paths = PackedText(name for name, _, _ in rows)
        if labelled:
            bare = next((name for name, _, label in rows if not label.strip()), None)
            if bare is not None:
                raise DataError(f"'{self.path}': {bare!r} has no label; wanted path<TAB>label on every line")
            self.set_labels([label.strip() for _, _, label in rows])
