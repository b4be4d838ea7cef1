"""Dynamic batching: pictures of many callers meet in one run of the engine.

Pictures of one size wait in a bucket of their own. A bucket is run when it is full, or when its oldest
picture has waited `max_wait` seconds; of several that are due, the one that has waited longest.

    with Batcher(embedder.run, max_batch=8, max_wait=0.005) as batcher:
        outputs = batcher.submit(pixels).result()      # {"cls": [D], "patch": [h,w,D], …}

Shapes: B batch, H W input pixels, h w patch grid, D embed_dim.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Outputs: TypeAlias = dict[str, Floats]


class QueueFull(Exception):
    """More pictures would wait than the queue holds; none was taken."""


class BatcherClosed(Exception):
    """The batcher takes no more pictures."""


@dataclass
class _Waiting:
    pixels: Floats
    since: float
    future: Future[Outputs] = field(default_factory=Future)


class Batcher:
    """`run`: [B,3,H,W] -> outputs by name, [B, ...] each. `lanes`: how many runs may go on at once.

    `submit` may be called from any thread. `observe` is told the size of every batch and its seconds.
    """

    def __init__(
        self,
        run: Callable[[Floats], Outputs],
        *,
        max_batch: int,
        max_wait: float,
        queue: int = 1 << 30,
        lanes: int = 1,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run = run
        self._max_batch, self._max_wait, self._queue = max_batch, max_wait, queue
        self._observe = observe
        self._buckets: dict[tuple[int, ...], deque[_Waiting]] = {}
        self._pending = 0
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name="batch", daemon=True) for _ in range(lanes)]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Pictures that wait or are being run."""
        return self._pending

    def submit(self, pixels: Floats) -> Future[Outputs]:
        """One picture [3,H,W]. Cancel the future and the picture is never run. Raises as `submit_all`."""
        return self.submit_all([pixels])[0]

    def submit_all(self, pictures: Sequence[Floats]) -> list[Future[Outputs]]:
        """All of them or none. Raises QueueFull or BatcherClosed."""
        now = time.monotonic()
        waiting = [_Waiting(pixels, now) for pixels in pictures]
        with self._changed:
            if self._closed:
                raise BatcherClosed
            if self._pending + len(waiting) > self._queue:
                raise QueueFull
            self._pending += len(waiting)
            for one in waiting:
                self._buckets.setdefault(one.pixels.shape, deque()).append(one)
            self._changed.notify_all()
        return [one.future for one in waiting]

    def close(self) -> None:
        """Run what waits, then end the threads. Nothing is taken any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            wanted = [one for one in taken if one.future.set_running_or_notify_cancel()]
            if wanted:
                self._run_batch(wanted)
            with self._changed:
                self._pending -= len(taken)
                self._changed.notify_all()

    def _take(self) -> list[_Waiting] | None:
        """The next batch, waited for; None once it is closed and nothing is left."""
        with self._changed:
            while True:
                shape, seconds = self._due(time.monotonic())
                if shape is not None and seconds <= 0:
                    bucket = self._buckets[shape]
                    batch = [bucket.popleft() for _ in range(min(len(bucket), self._max_batch))]
                    if not bucket:
                        del self._buckets[shape]
                    return batch
                if shape is None and self._closed:
                    return None
                self._changed.wait(None if shape is None else seconds)

    def _due(self, now: float) -> tuple[tuple[int, ...] | None, float]:
        """The bucket to run next, and in how many seconds."""
        best, soonest = None, 0.0
        for shape, bucket in self._buckets.items():
            waited = now - bucket[0].since
            full = len(bucket) >= self._max_batch or self._closed
            seconds = min(0.0, -waited) if full else self._max_wait - waited
            if best is None or seconds < soonest:
                best, soonest = shape, seconds
        return best, soonest

    def _run_batch(self, batch: list[_Waiting]) -> None:
        started = time.perf_counter()
        try:
            outputs = self._run(np.stack([one.pixels for one in batch]))
        except BaseException as error:  # it is raised where the outputs are waited for
            for one in batch:
                one.future.set_exception(error)
            return
        self._observe(len(batch), time.perf_counter() - started)
        for row, one in enumerate(batch):
            one.future.set_result({name: values[row] for name, values in outputs.items()})
