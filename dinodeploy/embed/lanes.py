"""Run batches on an engine, in order, as many at once as it has lanes.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from dinodeploy.embed.batches import stack
from dinodeploy.embed.decode import Decoded, Floats
from dinodeploy.embed.pooling import Outputs
from dinodeploy.embed.stages import Stages
from dinodeploy.embedder import Embedder


def run_ahead(
    embedder: Embedder, batches: Iterable[list[Decoded]], stages: Stages | None = None
) -> Iterator[tuple[list[Decoded], Outputs]]:
    """Each batch with its outputs, in order; an empty batch runs nothing and keeps its place.

    One batch more for each lane lies ready: a lane that is done before the oldest does not wait for it, nor
    for pixels to be put together.
    """
    stages = stages or Stages()
    lanes = embedder.backend.lanes
    running: deque[tuple[list[Decoded], Future[tuple[Outputs, float]]]] = deque()

    def run(pixels: Floats) -> tuple[Outputs, float]:
        started = time.perf_counter()
        return embedder.run(pixels), time.perf_counter() - started

    def oldest() -> tuple[list[Decoded], Outputs]:
        batch, future = running.popleft()
        with stages.waiting("engine"):
            outputs, seconds = future.result()
        stages.worked["engine"] += seconds
        return batch, outputs

    with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as pool:
        try:
            for batch in batches:
                running.append((batch, pool.submit(run, stack(batch)) if batch else _nothing()))
                while len(running) > 2 * lanes - 1:
                    yield oldest()
            while running:
                yield oldest()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _nothing() -> Future[tuple[Outputs, float]]:
    future: Future[tuple[Outputs, float]] = Future()
    future.set_result(({}, 0.0))
    return future
