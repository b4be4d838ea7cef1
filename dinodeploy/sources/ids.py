"""Millions of ids in little memory, and finding repeated ones."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np


class IdList(Sequence[str]):
    """A growing sequence of strings, stored end to end: an id costs its bytes and eight more.

    (A Python list of strings costs 57 more.) File names that are not valid Unicode are kept.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._pieces = [(bytearray(), array("Q", [0]))]  # texts, and the end of each
        self._starts = [0]  # number of ids before each piece
        for id_ in ids:
            self.append(id_)

    @classmethod
    def joined(cls, lists: Iterable[Sequence[str]]) -> IdList:
        """One list after the other, in the same memory."""
        made = cls()
        for one in lists:
            for packed, ends in (one if isinstance(one, cls) else cls(one))._pieces:
                made._pieces.insert(
                    -1, (packed, ends)
                )  # the last piece is not shared: ids are appended to it
                made._starts.append(made._starts[-1] + len(ends) - 1)
        return made

    def append(self, id_: str) -> None:
        packed, ends = self._pieces[-1]
        packed += id_.encode("utf-8", "surrogateescape")
        ends.append(len(packed))

    def __len__(self) -> int:
        return self._starts[-1] + len(self._pieces[-1][1]) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        positions = range(len(self))[index]  # negative indices too; raises IndexError
        if isinstance(positions, range):
            piece = bisect_right(self._starts, positions.start) - 1
            first, after = (at - self._starts[piece] for at in (positions.start, positions.stop))
            packed, ends = self._pieces[piece]
            if positions.step == 1 and 0 <= first < after < len(ends):
                bounds = pairwise(ends[first : after + 1])
                return [packed[start:end].decode("utf-8", "surrogateescape") for start, end in bounds]
            return [self[position] for position in positions]
        piece = bisect_right(self._starts, positions) - 1
        packed, ends = self._pieces[piece]
        start = positions - self._starts[piece]
        return packed[ends[start] : ends[start + 1]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for packed, ends in self._pieces:
            for start, end in pairwise(ends):
                yield packed[start:end].decode("utf-8", "surrogateescape")


def repeats(ids: Sequence[str]) -> list[tuple[int, int]]:
    """(position, position of the first equal id) of every repeated id, in order.

    Takes eight bytes per id meanwhile, and more only for repeated ids.
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
        earlier = first.setdefault(ids[position], position)  # compares strings: hashes may collide
        if earlier != position:
            found.append((position, earlier))
    return found
