"""From a dataset to batches that can be resumed exactly (docs/spec.md 4.14).

sampler (positions) -> workers (SeededSamples, collate) -> ResumableLoader (counts, broken pictures)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from dinov3_ref.data.broken_images import BrokenImages
from dinov3_ref.data.sample import ImageSource, Sample, SeededSamples
from dinov3_ref.data.samplers import EpochSampler, InfiniteSampler, PositionSampler, ShardedInfiniteSampler
from dinov3_ref.errors import ConfigError, DataError

Batch = dict[str, Any]


class SamplerType(Enum):
    """The official names. Upstream's DISTRIBUTED and EPOCH are one here: an epoch over all ranks."""

    EPOCH = "epoch"
    INFINITE = "infinite"
    SHARDED_INFINITE = "sharded_infinite"


SAMPLERS: dict[SamplerType, type[PositionSampler]] = {
    SamplerType.EPOCH: EpochSampler,
    SamplerType.INFINITE: InfiniteSampler,
    SamplerType.SHARDED_INFINITE: ShardedInfiniteSampler,
}


class ResumableLoader:
    """Batches of one rank. `samples_drawn`, over all ranks, is the whole of its state.

    What workers have fetched ahead does not count as drawn. Iterating goes on from where it is; a finite
    sampler ends its epoch and the next iteration begins the next. Raises `DataError` when too many pictures
    are broken.
    """

    def __init__(self, loader: DataLoader[Any], sampler: PositionSampler, broken: BrokenImages) -> None:
        self.loader = loader
        self.sampler = sampler
        self.broken = broken
        self.batch_size = cast(int, loader.batch_size)
        self.samples_drawn = 0

    def __len__(self) -> int:
        """Batches of an epoch; TypeError for an infinite sampler."""
        return len(self.loader)

    @property
    def skipped(self) -> int:
        """Broken pictures stepped over so far, by this rank; `broken` knows which."""
        return self.broken.skipped

    def state_dict(self) -> dict[str, int]:
        """{"samples_drawn": over all ranks}."""
        return {"samples_drawn": self.samples_drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there, on this number of ranks. Raises `DataError` if it falls between two ranks."""
        drawn = state["samples_drawn"]
        if drawn % self.sampler.step:
            raise DataError(
                f"{drawn} samples were drawn, which {self.sampler.step} ranks cannot have shared equally; "
                "resume with a number of ranks that divides it"
            )
        self.samples_drawn = drawn

    def __iter__(self) -> Iterator[Batch]:
        sampler = self.sampler
        drawn = self.samples_drawn
        if isinstance(sampler, EpochSampler):
            epoch, drawn = divmod(drawn, self._epoch_samples(sampler))
            sampler.set_epoch(epoch)
        sampler.advance = drawn // sampler.step
        for batch in self.loader:
            self.broken.record(batch.pop("drawn"), batch.pop("broken"))
            if not batch:
                last = next(reversed(self.broken.messages))
                raise DataError(f"no picture could be read in its place either: {last}; mend the dataset")
            self.samples_drawn += self.batch_size * sampler.step
            yield batch

    def _epoch_samples(self, sampler: EpochSampler) -> int:
        """Samples that the batches of an epoch hold, over all ranks: a last partial batch is dropped."""
        return len(sampler) // self.batch_size * self.batch_size * sampler.step


def make_data_loader(
    *,
    dataset: ImageSource,
    batch_size: int,
    collate_fn: Callable[[Sequence[Sample]], Batch],
    num_workers: int = 0,
    shuffle: bool = True,
    seed: int = 0,
    sampler_type: SamplerType = SamplerType.INFINITE,
    sampler_size: int | None = None,
    sampler_advance: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
    max_broken_fraction: float = 0.01,
) -> ResumableLoader:
    """Batches of `batch_size` samples of this rank; a last partial batch is dropped.

    sampler_size: draws in an epoch, for EPOCH alone. sampler_advance: samples of this rank to skip.
    rank, world_size: torch.distributed's if None. `collate_fn` keeps the samples' `broken` lines, as
    `collate_data_and_cast` does. Raises `ConfigError` for a size that makes no batch.
    """
    options: dict[str, Any] = {"sample_count": len(dataset), "shuffle": shuffle, "seed": seed}
    if sampler_size is not None:
        options["size"] = sampler_size
    sampler = SAMPLERS[sampler_type](**options, start=rank, step=world_size)
    if isinstance(sampler, EpochSampler) and len(sampler) < batch_size:
        raise ConfigError(
            f"an epoch gives each of {sampler.step} ranks {len(sampler)} samples, a batch wants "
            f"{batch_size}; make batches smaller"
        )
    loader: DataLoader[Any] = DataLoader(
        SeededSamples(dataset, seed),
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=cast(Any, collate_fn),
        num_workers=num_workers,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),  # or starting workers would draw from the model's
    )
    resumable = ResumableLoader(loader, sampler, BrokenImages(max_broken_fraction))
    resumable.samples_drawn = sampler_advance * sampler.step
    return resumable
