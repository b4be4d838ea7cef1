"""Several sources as one, without repeated ids."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from dinodeploy.arrays import IndexArray
from dinodeploy.errors import MisuseError
from dinodeploy.sources.files import FileSource
from dinodeploy.sources.ids import IdList, repeats
from dinodeploy.sources.source import Source, origins_of

MAX_OPEN = 4  # parts that may keep files open


def join(parts: Sequence[Source]) -> Source:
    """The only part, or all parts as one source; files alone give one `FileSource`.

    A location that is named twice is one image, at its first position. Raises MisuseError where an id from a
    table stands for two images.
    """
    joined = JoinedSource(parts)
    if len(parts) == 1 and joined.has_no_repeats:
        return parts[0]
    files = [part for part in parts if isinstance(part, FileSource) and part.is_plain]
    return FileSource(joined.ids, files[0].timeout) if files and len(files) == len(parts) else joined


class JoinedSource:
    """Sources one after the other, as `join` makes them."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = parts
        self._starts = [0, *accumulate(len(part.ids) for part in parts)]
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._lock = Lock()
        everything = IdList.joined(part.ids for part in parts)
        self._kept = self._first_mentions(everything)
        self.ids = everything if self._kept is None else IdList(everything[int(i)] for i in self._kept)

    @property
    def has_no_repeats(self) -> bool:
        """Whether no image was named twice."""
        return self._kept is None

    @property
    def origins(self) -> Iterator[str]:
        """The origins of all parts."""
        return (origin for part in self.parts for origin in origins_of(part))

    def image(self, index: int) -> str | Path | bytes | Image.Image:
        position = range(len(self.ids))[index]
        if self._kept is not None:
            position = int(self._kept[position])
        part = self._part_of(position)
        self._use(part)
        return self.parts[part].image(position - self._starts[part])

    def _part_of(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1

    def _use(self, part: int) -> None:
        """Release the least recently used part: a thousand open videos are too many."""
        with self._lock:
            self._recent[part] = None
            self._recent.move_to_end(part)
            oldest = self._recent.popitem(last=False)[0] if len(self._recent) > MAX_OPEN else None
        release = getattr(self.parts[oldest], "release", None) if oldest is not None else None
        if release is not None:
            release()

    def close(self) -> None:
        for part in self.parts:
            part.close()

    def _first_mentions(self, ids: IdList) -> IndexArray | None:
        """Positions of the first mention of each id; None where no id is repeated."""
        found = repeats(ids)
        if not found:
            return None
        for pair in found:
            for position in pair:
                if not getattr(self.parts[self._part_of(position)], "ids_are_locations", False):
                    raise MisuseError(
                        f"the id {ids[pair[0]]!r} is given to two images; use another --id-column, or none"
                    )
        keep = np.ones(len(ids), bool)
        keep[[position for position, _ in found]] = False
        return np.flatnonzero(keep).astype(np.int64)
