"""Run batches on an engine: in order, as many in parallel as the engine has parallel sessions.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from dinodeploy.arrays import AnyArray
from dinodeploy.pipeline.decode import Decoded
from dinodeploy.pipeline.pooling import Outputs
from dinodeploy.pipeline.runner import Runner
from dinodeploy.pipeline.stages import Stages

Batch = list[Decoded]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class EndOfShard:
    """Marks in a stream of batches that shard `index` has no more."""

    index: int


Work = TypeVar("Work", bound="Batch | EndOfShard")


def run_batches(
    embedder: Runner,
    work: Iterable[Work],
    stages: Stages | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Iterator[tuple[Work, Outputs]]:
    """Each batch with its outputs (`names`), in order. A marker runs nothing and keeps its place.

    Batches are stacked in the calling thread, so that no parallel session waits for that.
    """
    stages = stages or Stages()
    run_one = embedder.run if names is None else partial(embedder.run, outputs=names)

    def run(ready: tuple[Work, AnyArray | None]) -> tuple[Work, Outputs, float]:
        item, pixels = ready
        started = time.perf_counter()
        outputs = {} if pixels is None else run_one(pixels)
        return item, outputs, time.perf_counter() - started

    def wait(future: Future[tuple[Work, Outputs, float]]) -> tuple[Work, Outputs, float]:
        with stages.waiting("engine"):
            return future.result()

    ready = ((item, None if isinstance(item, EndOfShard) else stack(item)) for item in work)
    for item, outputs, seconds in run_in_order(run, ready, embedder.backend.parallel_runs, wait):
        stages.worked["engine"] += seconds
        yield item, outputs


def pending_batches(embedder: Runner) -> int:
    """How many batches `run_batches` holds at most: those that wait or run, the one being made, and the last
    one that it has yielded."""
    return 2 * embedder.backend.parallel_runs + 2


def stack(batch: Batch) -> AnyArray:
    """The pixels of a batch, [B,3,H,W] or bytes [B,H,W,3]; neighbours in shared memory are not copied."""
    ring, first = batch[0].ring, batch[0].slot
    if ring is not None and all(item.slot == first + row for row, item in enumerate(batch)):
        return ring[first : first + len(batch)]
    return np.stack([item.pixels for item in batch if item.pixels is not None])


def run_in_order(
    run: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    wait: Callable[[Future[Result]], Result] = Future.result,
) -> Iterator[Result]:
    """`run(item)` for each item on `threads` threads; results come in the order of the items.

    One more item per thread is pending: a thread that finishes early waits neither for the oldest item nor
    for the next one to be made. `wait` waits for a result. An exception in an item ends the iteration.
    """
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="parallel-run") as pool:
        try:
            for item in items:
                running.append(pool.submit(run, item))
                while len(running) > 2 * threads - 1:
                    yield wait(running.popleft())
            while running:
                yield wait(running.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
