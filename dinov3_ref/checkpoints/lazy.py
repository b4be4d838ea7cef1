"""Tensors that are put together when they are asked for, and not kept.

A file that stores q, k and v apart has no fused qkv to map into memory: joined, a 7B's are 8 GB that nobody
could page out. Whoever takes one tensor after the other holds one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor


class LazyTensors(Mapping[str, Tensor]):
    """Read-only, in the order given; a value is a tensor, or a function that makes one."""

    def __init__(self, tensors: Mapping[str, Tensor | Callable[[], Tensor]]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, key: str) -> Tensor:
        found = self._tensors[key]
        return found if isinstance(found, Tensor) else found()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        return key in self._tensors  # without making it
