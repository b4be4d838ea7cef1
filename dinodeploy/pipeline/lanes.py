"""Run batches on an engine, in order, as many at once as it has lanes.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

from dinodeploy.arrays import FloatArray
from dinodeploy.backends.ordered import run_in_order
from dinodeploy.embedder import Embedder
from dinodeploy.pipeline.batches import stack
from dinodeploy.pipeline.decode import Decoded
from dinodeploy.pipeline.pooling import Outputs
from dinodeploy.pipeline.stages import Stages

Batch = list[Decoded]
Done = tuple[Batch, Outputs, float]  # seconds


def run_ahead(
    embedder: Embedder, batches: Iterable[Batch], stages: Stages | None = None
) -> Iterator[tuple[Batch, Outputs]]:
    """Each batch with its outputs, in order; an empty batch runs nothing and keeps its place.

    Pixels are put together here, so that no lane waits for that.
    """
    stages = stages or Stages()

    def run(ready: tuple[Batch, FloatArray | None]) -> Done:
        batch, pixels = ready
        started = time.perf_counter()
        outputs = {} if pixels is None else embedder.run(pixels)
        return batch, outputs, time.perf_counter() - started

    def wait(future: Future[Done]) -> Done:
        with stages.waiting("engine"):
            return future.result()

    ready = ((batch, stack(batch) if batch else None) for batch in batches)
    for batch, outputs, seconds in run_in_order(run, ready, embedder.backend.lanes, wait):
        stages.worked["engine"] += seconds
        yield batch, outputs
