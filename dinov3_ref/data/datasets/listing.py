"""A text file that lists images: one path per line, optionally a tab and a label.

    n01440764/10026.jpg<TAB>tench

Relative paths are relative to the folder of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinov3_ref.data.datasets.encoded import EncodedImages, require_some
from dinov3_ref.data.datasets.packed_text import PackedText
from dinov3_ref.errors import DataError


class ImageList(EncodedImages):
    """The images of a list, in its order. Either all lines have a label or none."""

    def __init__(
        self,
        path: str | Path,
        *,
        labelled: bool = False,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.path = Path(path)
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

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        return (self.path.parent / self.paths[index]).read_bytes()

    def name(self, index: int) -> str:
        return str(self.path.parent / self.paths[index])
