"""Pictures of many callers, run together: `Batcher` for services and apps that get them one at a time.

    with Embedder.open("bundle") as embedder, Batcher(embedder, max_batch=8, max_wait=0.01) as batcher:
        future = batcher.submit("cat.jpg")     # from any thread
        vector = future.result()["cls"]        # float32 [D]

No picture waits longer than `max_wait` for company, and no more than `queue_size` wait at all.
Shapes: B batch, H, W input pixels, D dimension.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dinodeploy.embedder import Embedder, Picture
from dinodeploy.errors import BusyError, MisuseError
from dinodeploy.images import open_image

Floats = NDArray[np.float32]
Row = dict[str, Floats]


@dataclass
class _Waiting:
    """One picture [3,H,W] that nobody runs yet."""

    pixels: Floats
    future: Future[Row] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """A thread for each lane of the engine, over one queue. Close it before its embedder.

    `submit` may be called from many threads. It does not survive a fork: make one in each process.
    """

    def __init__(
        self, embedder: Embedder, max_batch: int = 8, max_wait: float = 0.01, queue_size: int = 64
    ) -> None:
        """max_wait: seconds. Raises MisuseError for numbers that mean nothing."""
        if max_batch < 1 or queue_size < max_batch or not 0 <= max_wait < float("inf"):
            raise MisuseError(
                f"got max_batch {max_batch}, max_wait {max_wait}, queue_size {queue_size}; wanted at least "
                "1, 0 seconds or more, and a queue that holds a batch"
            )
        self._embedder = embedder
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._queue_size = queue_size
        self._queue: deque[_Waiting] = deque()  # oldest first
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name="batcher", daemon=True)
            for _ in range(embedder.backend.lanes)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, picture: Picture | bytes, imgsz: int | tuple[int, int] | None = None) -> Future[Row]:
        """Decode a picture here and now, and have it run: a row of every output, [D] or [h,w,D].

        A future that is cancelled before its batch begins costs nothing. Raises ImageError for a picture
        that cannot be read, BusyError when the queue is full, MisuseError after `close`.
        """
        self._check_open()
        waiting = _Waiting(self._embedder.preprocess_for(imgsz)(open_image(picture)))
        with self._changed:
            self._check_open()
            if len(self._queue) >= self._queue_size:
                self._forget_cancelled()
            if len(self._queue) >= self._queue_size:
                raise BusyError(f"{self._queue_size} pictures are waiting already; try again later")
            self._queue.append(waiting)
            self._changed.notify_all()
        return waiting.future

    def close(self, *, drain: bool = True) -> None:
        """Run what is waiting, or with `drain` False cancel it; then end the threads. Twice does no harm."""
        with self._changed:
            self._closed = True
            if not drain:
                for waiting in self._queue:
                    waiting.future.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def _check_open(self) -> None:
        if self._closed:
            raise MisuseError("the batcher is closed; make another one")

    def _forget_cancelled(self) -> None:
        self._queue = deque(waiting for waiting in self._queue if not waiting.future.cancelled())

    def _work(self) -> None:
        while batch := self._next_batch():
            batch = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if batch:
                self._run(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Pictures of one size, the oldest among them; none when all is done after `close`."""
        with self._changed:
            while True:
                self._forget_cancelled()
                if not self._queue:
                    if self._closed:
                        return []
                    self._changed.wait()
                    continue
                oldest = self._queue[0]
                alike = [one for one in self._queue if one.pixels.shape == oldest.pixels.shape]
                left = oldest.arrived + self._max_wait - time.monotonic()
                if len(alike) >= self._max_batch or left <= 0 or self._closed:
                    batch = alike[: self._max_batch]
                    self._queue = deque(
                        one for one in self._queue if not any(one is taken for taken in batch)
                    )
                    return batch
                self._changed.wait(left)

    def _run(self, batch: list[_Waiting]) -> None:
        try:
            outputs = self._embedder.run(np.stack([waiting.pixels for waiting in batch]))
        except Exception as error:  # it belongs to those who wait; the thread goes on
            for waiting in batch:
                waiting.future.set_exception(error)
            return
        for place, waiting in enumerate(batch):
            # copies: a view would keep the whole batch, and engines use their buffers again
            waiting.future.set_result({name: np.array(rows[place]) for name, rows in outputs.items()})
