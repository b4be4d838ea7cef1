"""The rows of one shard while they are made: each image in a thread, read in the order of the listing.

Shapes: see the outputs of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import ImageError

# position, id, outputs of one image, (width, height), folder for its files -> its row. Raises ImageError.
Make = Callable[[int, str, Mapping[str, FloatArray], tuple[int, int], "Path | None"], dict[str, Any]]


@dataclass(frozen=True)
class Made:
    """An image's row, or the reason why it has none; then `row` holds its id alone."""

    row: dict[str, Any]
    reason: str = ""


class Workers:
    """Threads that turn outputs into rows. A caller waits while many are at work: each holds its outputs."""

    def __init__(self, make: Make, threads: int) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predict")
        self._free = Semaphore(2 * threads)

    def submit(
        self,
        position: int,
        id: str,
        values: Mapping[str, FloatArray],
        size: tuple[int, int],
        folder: Path | None,
    ) -> Future[Made]:
        self._free.acquire()
        try:
            future = self._pool.submit(self._work, position, id, values, size, folder)
        except BaseException:
            self._free.release()
            raise
        future.add_done_callback(lambda done: self._free.release())
        return future

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _work(
        self,
        position: int,
        id: str,
        values: Mapping[str, FloatArray],
        size: tuple[int, int],
        folder: Path | None,
    ) -> Made:
        try:
            return Made(self._make(position, id, values, size, folder))
        except ImageError as error:  # it was there when it was decoded
            return Made({"id": id}, str(error))


class PredictionRows:
    """The rows of one shard. folder: for the files of its images. stamp: what shows that they changed."""

    def __init__(
        self, outputs: Sequence[str], workers: Workers, folder: Path | None = None, stamp: str = ""
    ) -> None:
        self.outputs = tuple(outputs)
        self.folder = folder
        self.stamp = stamp
        self._workers = workers
        self._pending: dict[int, Future[Made]] = {}
        self._refused: dict[int, Made] = {}

    def add(self, position: int, id: str, values: Mapping[str, FloatArray], size: tuple[int, int]) -> str:
        """Begin the row of an image. Returns why it was refused, or an empty string."""
        for name, value in values.items():
            if not np.isfinite(value).all():
                return f"the engine's output {name!r} is not finite for this image"
        kept = {name: np.array(value) for name, value in values.items()}  # engines reuse their buffers
        self._pending[position] = self._workers.submit(position, id, kept, size, self.folder)
        return ""

    def quarantine(self, position: int, id: str, reason: str) -> None:
        """Add an image that has no row."""
        self._refused[position] = Made({"id": id}, reason)

    def wait(self) -> list[Made]:
        """Every image of the shard, in the order of the listing. Raises what a thread raised."""
        made = {position: future.result() for position, future in self._pending.items()} | self._refused
        return [made[position] for position in sorted(made)]
