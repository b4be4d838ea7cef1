"""Where pictures come from: files and folders, lists, archives, tables, URLs, videos.

A source knows the ids of its pictures, in an order that never changes, and opens any of them by position.
`open_source` finds out what the user's words mean; one module each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from dinodeploy.listing import list_images


class Source(Protocol):
    """Pictures by position. `picture` may be called from several threads at once."""

    ids: Sequence[str]  # each once, in order

    def picture(self, index: int) -> str | Path | bytes | Image.Image:
        """What `images.open_image` takes: a path, an encoded file, or a picture.

        Raises ImageError when there is nothing to open; the picture is then quarantined.
        """
        ...

    def close(self) -> None: ...


class FileSource:
    """Pictures that are files here: an id is its path."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids

    def picture(self, index: int) -> str:
        return self.ids[index]

    def close(self) -> None: ...


def open_source(inputs: Sequence[str | Path], **options: Any) -> Source:
    """The pictures under `inputs`. Raises MisuseError for what is not there."""
    return FileSource(list_images(inputs))
