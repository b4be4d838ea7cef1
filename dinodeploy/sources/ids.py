"""Millions of ids in little memory: one block of bytes, and where each begins."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


class PackedIds(Sequence[str]):
    """A sequence of strings at the size of their text and 8 bytes each. Any file name fits, UTF-8 or not."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._text = bytearray()
        self._ends = array("Q")
        self.extend(ids)

    def extend(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._text += os.fsencode(id_)
            self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(bytes(self._text[start : self._ends[index]]))

    def __iter__(self) -> Iterator[str]:
        return (self[position] for position in range(len(self)))


def repeated(ids: Sequence[str]) -> dict[str, list[int]]:
    """The ids that occur more than once, with their positions, in order. 8 bytes an id while it looks."""
    hashes = np.fromiter((hash(id_) for id_ in ids), np.int64, len(ids))
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    suspects = np.unique(np.concatenate([order[1:][same], order[:-1][same]]))
    places: dict[str, list[int]] = {}
    for position in suspects.tolist():  # equal hashes need not mean equal ids
        places.setdefault(ids[position], []).append(position)
    return {id_: positions for id_, positions in places.items() if len(positions) > 1}


def distinct(ids: PackedIds) -> PackedIds:
    """Each id once, where it came first."""
    again = {position for positions in repeated(ids).values() for position in positions[1:]}
    return PackedIds(id_ for position, id_ in enumerate(ids) if position not in again) if again else ids
