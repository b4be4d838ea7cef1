"""Data loaders that resume exactly (docs/spec.md 4.14).

sampler (positions) -> workers (SeededSamples, collate) -> ResumableLoader (counts samples and broken images)
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from dinov3_ref.data.sample import BrokenImages, ImageSource, Sample, SeededSamples
from dinov3_ref.data.samplers import EpochSampler, InfiniteSampler, PositionSampler, ShardedInfiniteSampler
from dinov3_ref.errors import ConfigError, DataError

Batch = dict[str, Any]


class SamplerType(Enum):
    """The official names. EPOCH also replaces the official DISTRIBUTED: one epoch over all ranks."""

    EPOCH = "epoch"
    INFINITE = "infinite"
    SHARDED_INFINITE = "sharded_infinite"


SAMPLERS: dict[SamplerType, type[PositionSampler]] = {
    SamplerType.EPOCH: EpochSampler,
    SamplerType.INFINITE: InfiniteSampler,
    SamplerType.SHARDED_INFINITE: ShardedInfiniteSampler,
}


class ResumableLoader:
    """Batches of one rank. Its only state is `samples_drawn`, the number of samples of all ranks.

    Batches that workers prefetched do not count. Iteration continues from the current position; a finite
    sampler stops at the end of its epoch, and the next iteration starts the next epoch. Raises `DataError`
    if too many images are broken.
    """

    def __init__(self, loader: DataLoader[Any], sampler: PositionSampler, broken: BrokenImages) -> None:
        self.loader = loader
        self.sampler = sampler
        self.broken = broken
        self.batch_size = cast(int, loader.batch_size)
        self.samples_drawn = 0

    def __len__(self) -> int:
        """Batches per epoch; TypeError for an infinite sampler."""
        return len(self.loader)

    @property
    def skipped(self) -> int:
        """Broken images skipped so far by this rank; `broken` has their names."""
        return self.broken.skipped

    def state_dict(self) -> dict[str, int]:
        """{"samples_drawn": number of samples of all ranks}."""
        return {"samples_drawn": self.samples_drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from there. Raises `DataError` if the samples do not divide by the number of ranks."""
        drawn = state["samples_drawn"]
        if drawn % self.sampler.step:
            raise DataError(
                f"{drawn} samples were drawn, which does not divide by {self.sampler.step} ranks; "
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
                raise DataError(f"no image after it could be read either: {last}; fix the dataset")
            self.samples_drawn += self.batch_size * sampler.step
            yield batch

    def _epoch_samples(self, sampler: EpochSampler) -> int:
        """Samples per epoch over all ranks, without the last partial batch."""
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
    """A loader of batches with `batch_size` samples per rank; a last partial batch is dropped.

    collate_fn: must return the samples' `broken` messages, as `collate_data_and_cast` does. sampler_size:
    samples per epoch, only for EPOCH. sampler_advance: samples of this rank to skip. rank, world_size: of
    torch.distributed if None. Raises `ConfigError` if an epoch has less than one batch.
    """
    options: dict[str, Any] = {"sample_count": len(dataset), "shuffle": shuffle, "seed": seed}
    if sampler_size is not None:
        options["size"] = sampler_size
    sampler = SAMPLERS[sampler_type](**options, start=rank, step=world_size)
    if isinstance(sampler, EpochSampler) and len(sampler) < batch_size:
        raise ConfigError(
            f"an epoch has {len(sampler)} samples for each of {sampler.step} ranks, a batch "
            f"has {batch_size}; use smaller batches"
        )
    loader: DataLoader[Any] = DataLoader(
        SeededSamples(dataset, seed),
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=cast(Any, collate_fn),
        num_workers=num_workers,
        worker_init_fn=ignore_stop_signals,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),  # else workers' seeds come from the global one
    )
    resumable = ResumableLoader(loader, sampler, BrokenImages(max_broken_fraction))
    resumable.samples_drawn = sampler_advance * sampler.step
    return resumable


# They end a run (`train/stop_requests.py`). Windows lacks SIGUSR1.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


def ignore_stop_signals(worker: int) -> None:
    """Keep a worker alive when a signal goes to the whole process group: its run still needs it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


SEED = 65537  # of the official code


class CombinedDataLoader:
    """Takes each batch from one of `loaders`, chosen with probabilities proportional to `ratios`.

    The choice depends only on the step, so it is the same on all ranks. Raises `ConfigError` for negative
    ratios, and if their number is not that of the loaders.
    """

    def __init__(self, loaders: Sequence[ResumableLoader], ratios: Sequence[float], seed: int = SEED) -> None:
        if len(loaders) != len(ratios) or min(ratios, default=-1) < 0 or sum(ratios) <= 0:
            raise ConfigError(
                f"{len(loaders)} loaders with ratios {list(ratios)}; wanted one ratio each, none below 0"
            )
        self.loaders = list(loaders)
        self.cumulative = np.cumsum(ratios) / sum(ratios)
        self.cumulative[-1] = 1.0  # despite rounding
        self.seed = seed
        self.steps = 0

    @property
    def skipped(self) -> int:
        """Broken images skipped so far by this rank."""
        return sum(loader.skipped for loader in self.loaders)

    def state_dict(self) -> dict[str, Any]:
        """{"steps": steps done, "loaders": state of each loader}."""
        return {"steps": self.steps, "loaders": [loader.state_dict() for loader in self.loaders]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there. Raises `ConfigError` if the number of loaders differs."""
        if len(state["loaders"]) != len(self.loaders):
            raise ConfigError(
                f"the state is of {len(state['loaders'])} loaders, this run has {len(self.loaders)}; "
                "resume with the same crop sizes"
            )
        self.steps = state["steps"]
        for loader, own in zip(self.loaders, state["loaders"], strict=True):
            loader.load_state_dict(own)

    def __iter__(self) -> Iterator[Batch]:
        iterators = [iter(loader) for loader in self.loaders]
        rng = np.random.default_rng(self.seed)
        rng.random(self.steps)  # skip the draws of earlier steps
        while True:
            chosen = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
            try:
                batch = next(iterators[chosen])
            except StopIteration:
                return
            self.steps += 1
            yield batch
