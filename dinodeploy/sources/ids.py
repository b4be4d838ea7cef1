"""Millions of ids in little memory, and which of them are there twice.

An id costs its own bytes and eight more (a list of Python strings: 57 and eight). Order is kept. A name
that is no valid Unicode, as files may have, survives.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class PackedIds(Sequence[str]):
    """A growing sequence of strings, end to end in one piece of memory."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._packed = bytearray()
        self._ends = array("Q", [0])
        for id_ in ids:
            self.append(id_)

    def append(self, id_: str) -> None:
        self._packed += id_.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._packed))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]  # negative ones too, and IndexError
        return self._packed[self._ends[position] : self._ends[position + 1]].decode(
            "utf-8", "surrogateescape"
        )

    def __iter__(self) -> Iterator[str]:
        return (self[position] for position in range(len(self)))


class ChosenIds(Sequence[str]):
    """Those of `ids` that `chosen` names by position, in that order."""

    def __init__(self, ids: Sequence[str], chosen: Sequence[int] | NDArray[np.int64]) -> None:
        self._ids = ids
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self._ids[int(position)] for position in self._chosen[index]]
        return self._ids[int(self._chosen[index])]


def repeats(ids: Sequence[str]) -> list[tuple[int, int]]:
    """(position, position of the first one alike) of every id that was there before, in order.

    Takes eight bytes an id while it looks, and more only where something is there twice.
    """
    hashes = np.fromiter((hash(id_) for id_ in ids), np.int64, len(ids))
    ordered = np.sort(hashes)
    doubled = ordered[1:][ordered[1:] == ordered[:-1]]
    del ordered
    if not len(doubled):
        return []
    first: dict[str, int] = {}
    found = []
    for position in np.flatnonzero(np.isin(hashes, doubled)).tolist():
        earlier = first.setdefault(ids[position], position)  # by the string: hashes may meet by chance
        if earlier != position:
            found.append((position, earlier))
    return found
