"""Samplers with one order over all ranks that can start at any position (docs/spec.md 4.14).

Position p of a run is draw p // W of rank p mod W, with W ranks. The order depends only on the seed and the
size of the dataset, so a run may resume on another number of ranks (except with the sharded sampler).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from dinov3_ref.data.sample import Draw, derive_seed
from dinov3_ref.distributed import get_rank, get_world_size
from dinov3_ref.errors import DataError


class PositionSampler(Sampler[int]):
    """Base class: yields the samples of this rank.

    start, step: rank and number of ranks; of torch.distributed if None. advance: draws of this rank to skip.
    Raises `DataError` for an empty dataset.
    """

    def __init__(
        self,
        *,
        sample_count: int,
        shuffle: bool = True,
        seed: int = 0,
        start: int | None = None,
        step: int | None = None,
        advance: int = 0,
    ) -> None:
        if sample_count < 1:
            raise DataError("the dataset has no samples; wanted at least one")
        self.sample_count = sample_count
        self.shuffle = shuffle
        self.seed = seed
        self.start = get_rank() if start is None else start
        self.step = get_world_size() if step is None else step
        self.advance = advance

    def _order(self, count: int, *pass_of: int) -> Tensor:
        """0..count-1, shuffled for one pass over the data: int32 [count], int64 from 2^31 on."""
        dtype = torch.int32 if count < 2**31 else torch.int64
        if not self.shuffle:
            return torch.arange(count, dtype=dtype)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", *pass_of))
        return torch.randperm(count, generator=generator, dtype=dtype)


class InfiniteSampler(PositionSampler):
    """Endless passes over the whole dataset, each in a new order."""

    def __iter__(self) -> Iterator[int]:
        position = self.start + self.step * self.advance
        while True:
            index_of_pass, offset = divmod(position, self.sample_count)
            order = self._order(self.sample_count, index_of_pass)
            while offset < self.sample_count:
                yield Draw(int(order[offset]), position)
                position += self.step
                offset += self.step


class ShardedInfiniteSampler(PositionSampler):
    """`InfiniteSampler` in which rank r only draws the samples r, r + W, r + 2W, ..., to help file caches.

    Resume with the same number of ranks. Raises `DataError` if a rank has no samples.
    """

    def __iter__(self) -> Iterator[int]:
        own = len(range(self.start, self.sample_count, self.step))
        if own == 0:
            raise DataError(f"{self.sample_count} samples are too few for {self.step} ranks; use fewer ranks")
        draws = self.advance
        while True:
            index_of_pass, offset = divmod(draws, own)
            order = self._order(own, index_of_pass, self.start)
            for row in range(offset, own):
                yield Draw(self.start + self.step * int(order[row]), self.start + self.step * draws)
                draws += 1


class EpochSampler(PositionSampler):
    """One epoch of `size` draws (default: the dataset once); `set_epoch` chooses the next.

    All ranks draw equally often: the remainder is left out. With more draws than samples, samples repeat.
    """

    def __init__(
        self, *, sample_count: int, size: int | None = None, shuffle: bool = False, **options: Any
    ) -> None:
        super().__init__(sample_count=sample_count, shuffle=shuffle, **options)
        self.size = sample_count if size is None else size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration this epoch, from `advance` on."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Draws of this rank per epoch."""
        return self.size // self.step

    def __iter__(self) -> Iterator[int]:
        order = self._order(self.size, self.epoch)
        for draw in range(self.advance, len(self)):
            row = self.start + self.step * draw
            yield Draw(int(order[row]) % self.sample_count, self.epoch * self.size + row)
