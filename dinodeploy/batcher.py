"""`Batcher`: batches images from many callers, for services and apps that get them one at a time.

    with Embedder.open("bundle") as embedder, Batcher(embedder, max_batch=8, max_wait=0.01) as batcher:
        future = batcher.submit("cat.jpg")     # from any thread
        vector = future.result()["cls"]        # float32 [D]

Images of one input size wait in one bucket. A bucket runs when it is full, or when its oldest image has
waited `max_wait` seconds; if several are due, the one that has waited longest runs first. At most
`queue_size` images wait.

Shapes: B batch, H, W input pixels, D dimension.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.embedder import Embedder
from dinodeploy.errors import BusyError, MisuseError
from dinodeploy.images.inputs import ImageInput, as_source
from dinodeploy.images.open import open_image

Row = dict[str, FloatArray]
Shape = tuple[int, ...]


@dataclass(eq=False)  # arrays cannot be compared with ==
class _Waiting:
    """One preprocessed image [3,H,W] in a bucket. arrived: `time.monotonic()` of its submission."""

    pixels: FloatArray
    arrived: float
    future: Future[Row] = field(default_factory=Future)


class Batcher:
    """Runs batches in one thread per parallel session of the engine. Close it before its embedder.

    `submit` may be called from many threads. It does not survive a fork: make one in each process.
    """

    def __init__(
        self,
        embedder: Embedder,
        max_batch: int = 8,
        max_wait: float = 0.01,
        queue_size: int = 64,
        max_pixels: int | None = None,
        observe: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        """max_wait: seconds. max_pixels: of one batch, so that batches of large inputs are smaller.
        observe: called after each batch with its size and the engine's seconds.

        Raises MisuseError for numbers out of range.
        """
        if max_pixels is not None and max_pixels < 1:
            raise MisuseError(f"got max_pixels {max_pixels}; wanted at least 1")
        if max_batch < 1 or queue_size < max_batch or not 0 <= max_wait < float("inf"):
            raise MisuseError(
                f"got max_batch {max_batch}, max_wait {max_wait}, queue_size {queue_size}; wanted at least "
                "1, 0 seconds or more, and a queue that holds a batch"
            )
        self._embedder = embedder
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._max_pixels = max_pixels
        self._queue_size = queue_size
        self._observe = observe
        self._buckets: dict[Shape, deque[_Waiting]] = {}  # oldest first; never an empty one
        self._running = 0
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name="batcher", daemon=True)
            for _ in range(embedder.backend.parallel_runs)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Number of images that wait or run."""
        with self._changed:
            return self._queued() + self._running

    def submit(self, image: ImageInput, imgsz: int | tuple[int, int] | None = None) -> Future[Row]:
        """Decode an image in this thread and queue it. The result: a row of every output, [D] or [h,w,D].

        A future cancelled before its batch starts is not run. Raises ImageError for an image that cannot be
        read, BusyError when the queue is full, MisuseError after `close`.
        """
        self._check_open()
        return self.submit_pixels([self._embedder.preprocess_for(imgsz)(open_image(as_source(image)))])[0]

    def submit_pixels(self, images: Sequence[FloatArray]) -> list[Future[Row]]:
        """Queue preprocessed images, [3,H,W] or bytes [H,W,3] each: all of them or none.

        Raises BusyError when the queue has no room for all, MisuseError after `close`.
        """
        arrived = time.monotonic()
        waiting = [_Waiting(pixels, arrived) for pixels in images]
        with self._changed:
            self._check_open()
            if self._queued() + len(waiting) > self._queue_size:
                self._forget_cancelled()
            if (queued := self._queued()) + len(waiting) > self._queue_size:
                raise BusyError(f"{queued} of at most {self._queue_size} images are waiting; try again later")
            for one in waiting:
                self._buckets.setdefault(one.pixels.shape, deque()).append(one)
            self._changed.notify_all()
        return [one.future for one in waiting]

    def close(self, *, drain: bool = True) -> None:
        """Run the waiting images (with `drain` False: cancel them), then end the threads. May be repeated."""
        with self._changed:
            self._closed = True
            if not drain:
                for bucket in self._buckets.values():
                    for waiting in bucket:
                        waiting.future.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        self.close(drain=kind is None)

    def _check_open(self) -> None:
        if self._closed:
            raise MisuseError("the batcher is closed; make another one")

    def _queued(self) -> int:
        return sum(map(len, self._buckets.values()))

    def _forget_cancelled(self) -> None:
        """Remove cancelled images, and notify their waiters (`concurrent.futures.wait`)."""
        for shape, bucket in list(self._buckets.items()):
            cancelled = [one for one in bucket if one.future.cancelled()]
            if not cancelled:
                continue
            for one in cancelled:
                bucket.remove(one)
                one.future.set_running_or_notify_cancel()
            if not bucket:
                del self._buckets[shape]

    def _work(self) -> None:
        while taken := self._take():
            batch = [one for one in taken if one.future.set_running_or_notify_cancel()]
            if batch:
                self._run(batch)
            with self._changed:
                self._running -= len(taken)

    def _take(self) -> list[_Waiting]:
        """Wait for a batch of one size; an empty list when everything is done after `close`."""
        with self._changed:
            while True:
                self._forget_cancelled()
                if not self._buckets:
                    if self._closed:
                        return []
                    self._changed.wait()
                    continue
                shape, seconds = self._due(time.monotonic())
                if seconds > 0:
                    self._changed.wait(seconds)
                    continue
                bucket = self._buckets[shape]
                batch = [bucket.popleft() for _ in range(min(len(bucket), self._batch_of(shape)))]
                if not bucket:
                    del self._buckets[shape]
                self._running += len(batch)
                return batch

    def _batch_of(self, shape: Shape) -> int:
        """Images of the largest batch of inputs of `shape`, (3,H,W) or (H,W,3)."""
        if self._max_pixels is None:
            return self._max_batch
        return max(1, min(self._max_batch, self._max_pixels // (math.prod(shape) // 3)))

    def _due(self, now: float) -> tuple[Shape, float]:
        """The bucket to run next, and in how many seconds; if it is due, minus the seconds it has waited."""

        def seconds(shape: Shape) -> float:
            bucket = self._buckets[shape]
            waited = now - bucket[0].arrived
            is_due = waited >= self._max_wait or len(bucket) >= self._batch_of(shape) or self._closed
            return -waited if is_due else self._max_wait - waited

        shape = min(self._buckets, key=seconds)
        return shape, seconds(shape)

    def _run(self, batch: list[_Waiting]) -> None:
        started = time.perf_counter()
        try:
            outputs = self._embedder.run(np.stack([one.pixels for one in batch]))
            self._observe(len(batch), time.perf_counter() - started)
        except BaseException as error:  # the waiting callers get it; this thread continues
            for one in batch:
                one.future.set_exception(error)
            return
        for index, one in enumerate(batch):
            # copies: a view would keep the whole batch alive, and engines reuse their buffers
            one.future.set_result({name: np.array(rows[index]) for name, rows in outputs.items()})
