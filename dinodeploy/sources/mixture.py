"""Several sources as one, each id once."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, overload

import numpy as np

from dinodeploy.errors import MisuseError
from dinodeploy.sources.ids import ChosenIds, repeats
from dinodeploy.sources.origins import origins_of
from dinodeploy.sources.paths import FileSource

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from dinodeploy.sources import Source

_AWAKE = 4  # parts that may keep something open; a part may have `rest()`, which closes it until it is used


class JoinedIds(Sequence[str]):
    """The ids of all parts, one part after the other."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self._parts = parts
        self._starts = [0, *accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        part, position = self.find(range(len(self))[index])
        return self._parts[part][position]

    def __iter__(self) -> Iterator[str]:
        return (id_ for part in self._parts for id_ in part)

    def find(self, index: int) -> tuple[int, int]:
        """Which part, and which of its ids."""
        part = bisect_right(self._starts, index) - 1
        return part, index - self._starts[part]


def join(parts: Sequence[Source]) -> Source:
    """The one source, or all in a row; of files alone, one source of files.

    The same place named twice is one picture, and the first mention counts. Raises MisuseError where an id
    that a table gave would stand for two pictures.
    """
    mixture = Mixture(parts)
    if len(parts) == 1 and mixture.is_whole:
        return parts[0]
    files = [part for part in parts if isinstance(part, FileSource) and part.is_plain]
    return FileSource(mixture.ids, files[0].timeout) if files and len(files) == len(parts) else mixture


class Mixture:
    """Sources one after the other, as `join` makes them."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self._parts = parts
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._lock = Lock()
        self._joined = JoinedIds([part.ids for part in parts])
        self._kept = self._first_mentions()
        self.ids: Sequence[str] = self._joined if self._kept is None else ChosenIds(self._joined, self._kept)

    @property
    def is_whole(self) -> bool:
        """Nothing was named twice."""
        return self._kept is None

    @property
    def origins(self) -> Iterator[str]:
        """Those of all parts."""
        return (origin for part in self._parts for origin in origins_of(part))

    def picture(self, index: int) -> str | Path | bytes | Image.Image:
        if self._kept is not None:
            index = int(self._kept[index])
        part, position = self._joined.find(range(len(self._joined))[index])
        self._use(part)
        return self._parts[part].picture(position)

    def _use(self, part: int) -> None:
        """Let the part rest that was not used for longest: a thousand open videos are too many."""
        with self._lock:
            self._recent[part] = None
            self._recent.move_to_end(part)
            oldest = self._recent.popitem(last=False)[0] if len(self._recent) > _AWAKE else None
        rest = getattr(self._parts[oldest], "rest", None) if oldest is not None else None
        if rest is not None:
            rest()

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def _first_mentions(self) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
        """Positions of what stays, or None where everything does."""
        found = repeats(self._joined)
        if not found:
            return None
        for pair in found:
            if not all(self._is_place(position) for position in pair):
                raise MisuseError(
                    f"the id {self._joined[pair[0]]!r} is given to two pictures; name another --id-column, "
                    "or none"
                )
        keep = np.ones(len(self._joined), bool)
        keep[[position for position, _ in found]] = False
        return np.flatnonzero(keep).astype(np.int64)

    def _is_place(self, index: int) -> bool:
        return getattr(self._parts[self._joined.find(index)[0]], "ids_are_places", False)
