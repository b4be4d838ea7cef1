"""A read-only mapping of tensors, some of which are computed on each access and not kept.

A file with separate q, k and v has no fused qkv to map into memory. Joined in advance, those of a 7B would
take 8 GB; computed on access, only one is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor


class LazyTensors(Mapping[str, Tensor]):
    """Read-only mapping in the given order; a value is a tensor, or a function that computes one."""

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
        return key in self._tensors  # without computing it
