"""Which sample comes next: one order over all ranks, any place of which is found without replaying it.

Position p of a run is drawn by rank p mod W, as its p // W th. The order depends on the seed and the size of
the dataset alone, so a run may go on from position p on another number of ranks (docs/spec.md 4.14; the
sharded
sampler is the exception). Shapes: W number of ranks, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from dinov3_ref.data.seeding import Draw, derive_seed
from dinov3_ref.distributed import get_rank, get_world_size
from dinov3_ref.errors import DataError


class PositionSampler(Sampler[int]):
    """Base: this rank's positions, from `advance` draws on.

    start, step: rank and number of ranks; torch.distributed's if None. advance: draws of this rank to skip.
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
        """0..count-1, shuffled for one pass over the data: int32 [count], or int64 past 2^31."""
        dtype = torch.int32 if count < 2**31 else torch.int64
        if not self.shuffle:
            return torch.arange(count, dtype=dtype)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", *pass_of))
        return torch.randperm(count, generator=generator, dtype=dtype)


class InfiniteSampler(PositionSampler):
    """Pass after pass over the whole dataset, each in an order of its own, without end."""

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
    """As `InfiniteSampler`, but rank r keeps to the samples r, r + W, r + 2W, ...: caches hold only those.

    Resuming wants the same number of ranks. Raises `DataError` if a rank would have nothing.
    """

    def __iter__(self) -> Iterator[int]:
        own = len(range(self.start, self.sample_count, self.step))
        if own == 0:
            raise DataError(f"{self.sample_count} samples do not reach {self.step} ranks; use fewer")
        draws = self.advance
        while True:
            index_of_pass, offset = divmod(draws, own)
            order = self._order(own, index_of_pass, self.start)
            for row in range(offset, own):
                yield Draw(self.start + self.step * int(order[row]), self.start + self.step * draws)
                draws += 1


class EpochSampler(PositionSampler):
    """One epoch of `size` draws (default: the dataset once), then it stops; `set_epoch` for the next.

    All ranks draw equally often: a remainder that does not go round is left out. More draws than samples
    begin the samples anew.
    """

    def __init__(
        self,
        *,
        sample_count: int,
        size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        start: int | None = None,
        step: int | None = None,
        advance: int = 0,
    ) -> None:
        super().__init__(
            sample_count=sample_count, shuffle=shuffle, seed=seed, start=start, step=step, advance=advance
        )
        self.size = sample_count if size is None else size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is this epoch, from its beginning or `advance`."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Draws of this rank in a whole epoch."""
        return self.size // self.step

    def __iter__(self) -> Iterator[int]:
        order = self._order(self.size, self.epoch)
        for draw in range(self.advance, len(self)):
            row = self.start + self.step * draw
            yield Draw(int(order[row]) % self.sample_count, self.epoch * self.size + row)
