"""Several sources as one, their pictures one source after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, overload

from PIL import Image

if TYPE_CHECKING:
    from dinodeploy.sources import Source


class JoinedIds(Sequence[str]):
    """The ids of all parts, without a copy."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self._parts = parts
        self.ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        part, inner = self.place(index % len(self))
        return self._parts[part][inner]

    def __iter__(self) -> Iterator[str]:
        for part in self._parts:
            yield from part

    def place(self, index: int) -> tuple[int, int]:
        """Which part, and where in it."""
        part = bisect_right(self.ends, index)
        return part, index - (self.ends[part - 1] if part else 0)


class JoinedSource:
    def __init__(self, parts: Sequence[Source]) -> None:
        self._parts = parts
        self._ids = JoinedIds([part.ids for part in parts])
        self.ids: Sequence[str] = self._ids

    def picture(self, index: int) -> str | Path | bytes | Image.Image:
        part, inner = self._ids.place(index)
        return self._parts[part].picture(inner)

    def close(self) -> None:
        for part in self._parts:
            part.close()
