"""Run batches on an engine: in order, as many in parallel as the engine has parallel sessions.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.backends.ordered import run_in_order
from dinodeploy.embedder import Embedder
from dinodeploy.pipeline.decode import Decoded
from dinodeploy.pipeline.pooling import Outputs
from dinodeploy.pipeline.stages import Stages

Batch = list[Decoded]


@dataclass(frozen=True)
class EndOfShard:
    """Marks in a stream of batches that shard `index` has no more."""

    index: int


Work = TypeVar("Work", bound="Batch | EndOfShard")


def run_batches(
    embedder: Embedder, work: Iterable[Work], stages: Stages | None = None
) -> Iterator[tuple[Work, Outputs]]:
    """Each batch with its outputs, in order. A marker runs nothing and keeps its place in the order.

    Batches are stacked in the calling thread, so that no parallel session waits for that.
    """
    stages = stages or Stages()

    def run(ready: tuple[Work, FloatArray | None]) -> tuple[Work, Outputs, float]:
        item, pixels = ready
        started = time.perf_counter()
        outputs = {} if pixels is None else embedder.run(pixels)
        return item, outputs, time.perf_counter() - started

    def wait(future: Future[tuple[Work, Outputs, float]]) -> tuple[Work, Outputs, float]:
        with stages.waiting("engine"):
            return future.result()

    ready = ((item, None if isinstance(item, EndOfShard) else stack(item)) for item in work)
    for item, outputs, seconds in run_in_order(run, ready, embedder.backend.parallel_runs, wait):
        stages.worked["engine"] += seconds
        yield item, outputs


def stack(batch: Batch) -> FloatArray:
    """The pixels of a batch, [B,3,H,W]."""
    return np.stack([item.pixels for item in batch if item.pixels is not None])
