"""What identifies the images of a source for `embed --update`: size, time and origin, or the content's hash.

Shapes: n images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from dinodeploy.arrays import ByteArray, IndexArray
from dinodeploy.errors import ImageError
from dinodeploy.files.regular import open_regular
from dinodeploy.sources.source import Source, origin_of, origins_of, stamp_of

UNKNOWN = -1  # a size or time that the source does not tell
UNRECORDED = -2  # in the listing of a store that an older version wrote
_CHUNK = 1 << 20


class Stamps:
    """The stamps of a source's images, asked for when they are needed, each once.

    Ask before the images are read: a later change is then noticed by the next run.
    """

    def __init__(self, source: Source, *, content: bool = False, threads: int = 4) -> None:
        self.ids = source.ids
        self.content = content
        self._source = source
        self._threads = threads
        self._has_origins = any(True for _ in origins_of(source))
        self._all: IndexArray | None = None

    def of(self, positions: Sequence[int]) -> IndexArray:
        """[n, 3]: size in bytes, modification time in ns, a hash of the origin; UNKNOWN where not told."""
        if self._all is not None:
            return self._all[np.asarray(positions, np.int64)]
        return self._ask(positions)

    def all(self) -> IndexArray:
        """`of` all images."""
        if self._all is None:
            self._all = self._ask(range(len(self.ids)))
        return self._all

    def hashes(self, positions: Sequence[int]) -> ByteArray:
        """[n, 32]: sha256 of each encoded image, or of a frame's pixels; zeros where unreadable."""
        found = np.zeros((len(positions), 32), np.uint8)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="hash") as pool:
            for row, digest in enumerate(pool.map(self._hash, positions)):
                if digest:
                    found[row] = np.frombuffer(digest, np.uint8)
        return found

    def _ask(self, positions: Iterable[int]) -> IndexArray:
        rows = np.fromiter(self._numbers(positions), np.int64)
        stamps = np.zeros((len(rows) // 2, 3), np.int64)
        stamps[:, :2] = rows.reshape(-1, 2)
        if self._has_origins:
            tags = (_tag(origin_of(self._source, position)) for position in positions)
            stamps[:, 2] = np.fromiter(tags, np.int64, len(stamps))
        return stamps

    def _numbers(self, positions: Iterable[int]) -> Iterable[int]:
        for position in positions:
            size, mtime_ns = stamp_of(self._source, position)
            yield UNKNOWN if size is None else size
            yield UNKNOWN if mtime_ns is None else mtime_ns

    def _hash(self, position: int) -> bytes:
        digest = hashlib.sha256()
        try:
            image = self._source.image(position)
            if isinstance(image, Image.Image):
                digest.update(f"{image.mode} {image.size} ".encode() + image.tobytes())
            elif isinstance(image, (str, Path)):
                with open_regular(image) as file:
                    _update(digest.update, lambda: file.read(_CHUNK))
            else:
                digest.update(image)
        except (ImageError, OSError):
            return b""
        return digest.digest()


def _update(update: Callable[[bytes], None], read: Callable[[], bytes]) -> None:
    while chunk := read():
        update(chunk)


def _tag(origin: str) -> int:
    """63 bits of the hash of an origin; 0 for none."""
    if not origin:
        return 0
    return int.from_bytes(hashlib.sha256(origin.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1
