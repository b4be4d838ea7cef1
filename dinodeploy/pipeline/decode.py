"""Decode images ahead of the consumer: in threads, in order, with a time limit per image.

Pillow and numpy release the GIL while they work, so threads scale like processes, without copying pixels.
An image that exceeds the time limit (a dead network drive) or whose thread died is reported as unreadable,
and the thread is replaced. Closing does not wait for a thread that hangs.

Shapes: H, W input pixels.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dinodeploy.arrays import AnyArray
from dinodeploy.errors import ImageError, reason_of
from dinodeploy.hardware.cores import hardware_threads
from dinodeploy.images.limits import DEFAULT_LIMITS, ImageLimits
from dinodeploy.images.open import open_reduced
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.sources import FileSource, Source

MAX_DECODERS = 8
TIME_LIMIT = 120.0  # seconds per image; the largest accepted image takes a few
_POLL = 0.25  # seconds between checks of a thread that is waited for
JOIN_SECONDS = 5.0  # seconds that threads have to finish their last image


@dataclass(slots=True)  # made for every image: freezing it takes three times as long
class Decoded:
    """One image, ready for the engine, or the reason why not."""

    id: str
    pixels: AnyArray | None  # [3,H,W], or bytes [H,W,3]
    size: tuple[int, int]  # width and height of the original
    reason: str = ""
    position: int = 0  # in the listing
    path: str | Path | None = None  # of a local file
    seconds: float = 0.0  # opening and preprocessing took
    error: Exception | None = None  # that `reason` tells of
    slot: int = -1  # of `ring`, where the pixels lie in shared memory
    ring: AnyArray | None = None  # [S, ...], of which `pixels` are row `slot`


@dataclass
class DecodeJob:
    """One image on its way through a decoding thread."""

    position: int
    done: threading.Event = field(default_factory=threading.Event)
    result: Decoded | BaseException | None = None
    started: float | None = None
    thread: threading.Thread | None = None
    given_up: bool = False


def default_decoders() -> int:
    """One decoding thread per usable hardware thread, at most `MAX_DECODERS`."""
    return min(math.ceil(hardware_threads()), MAX_DECODERS)


def images_ahead(batch_size: int, threads: int) -> int:
    """How many images to decode ahead: two batches, and at least two per thread."""
    return 2 * max(batch_size, threads)


def decode_ahead(
    ids: Sequence[str],
    preprocess: Preprocess,
    threads: int,
    ahead: int,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Iterator[Decoded]:
    """Decode files, in order, at most `ahead` of them before the consumer asks."""
    return decode_source(FileSource(ids), range(len(ids)), preprocess, threads, ahead, limits=limits)


def decode_source(
    source: Source,
    positions: Iterable[int],
    preprocess: Preprocess,
    threads: int,
    ahead: int,
    time_limit: float = TIME_LIMIT,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Generator[Decoded, None, None]:
    """Decode the images of `source` at `positions`, in order, at most `ahead` before the consumer asks.

    time_limit: seconds after which an image is reported as unreadable. limits: of one image.
    """
    decoders = _Decoders(source, preprocess, threads, time_limit, limits)
    waiting: deque[DecodeJob] = deque()
    try:
        for position in positions:
            waiting.append(decoders.submit(position))
            if len(waiting) > ahead:
                yield decoders.wait(waiting.popleft())
        while waiting:
            yield decoders.wait(waiting.popleft())
    finally:
        decoders.close()


class _Decoders:
    """Daemon threads over one queue. Unlike a pool's threads they do not keep the process alive."""

    def __init__(
        self, source: Source, preprocess: Preprocess, threads: int, time_limit: float, limits: ImageLimits
    ) -> None:
        self._source = source
        self._limits = limits
        self._preprocess = preprocess
        self._time_limit = time_limit
        self._jobs: queue.SimpleQueue[DecodeJob | None] = queue.SimpleQueue()
        self._started = 0
        self._threads = [self._start() for _ in range(threads)]

    def submit(self, position: int) -> DecodeJob:
        job = DecodeJob(position)
        self._jobs.put(job)
        return job

    def wait(self, job: DecodeJob) -> Decoded:
        """The result of the oldest job. Raises what is not the fault of its image."""
        while not job.done.wait(_POLL):
            if (reason := self._why_lost(job)) and not job.done.is_set():
                job.given_up = True
                return Decoded(self._source.ids[job.position], None, (0, 0), reason, job.position)
        if isinstance(job.result, BaseException):
            raise job.result
        assert job.result is not None, "set before done"
        return job.result

    def close(self) -> None:
        while True:  # jobs whose results nobody needs
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        for _ in range(self._started):
            self._jobs.put(None)
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="decode", daemon=True)
        thread.start()
        self._started += 1
        return thread

    def _why_lost(self, job: DecodeJob) -> str:
        """Why a job will never finish, or an empty string. Lost threads are replaced."""
        self._threads = [thread if thread.is_alive() else self._start() for thread in self._threads]
        if job.thread is None or job.started is None:
            return ""
        if not job.thread.is_alive():
            return "the thread that decoded it died"
        progress: float = getattr(self._source, "last_progress", 0.0)  # skipping in a compressed archive
        if time.monotonic() - max(job.started, progress) > self._time_limit:
            self._threads = [self._start() if thread is job.thread else thread for thread in self._threads]
            return took_too_long(self._time_limit)
        return ""

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.thread = threading.current_thread()
            job.started = time.monotonic()
            try:
                job.result = decode(self._source, job.position, self._preprocess, self._limits)
            except BaseException as error:  # raised again in `wait`
                job.result = error
            job.done.set()
            if job.given_up:  # another thread replaced this one
                return


def decode(
    source: Source, position: int, preprocess: Preprocess, limits: ImageLimits = DEFAULT_LIMITS
) -> Decoded:
    """Open and preprocess one image of `source`. What is wrong with it becomes its `reason`.

    Raises DinodeployError for what is not the image's fault, such as a missing package.
    """
    started = time.perf_counter()
    made = decode_image(partial(source.image, position), preprocess, limits)
    seconds = time.perf_counter() - started
    return Decoded(
        source.ids[position], made.pixels, made.size, made.reason, position, made.path, seconds, made.error
    )


class Made(NamedTuple):
    """What became of one image: its pixels and original size, or the reason why not."""

    pixels: AnyArray | None
    size: tuple[int, int]
    reason: str = ""
    path: str | Path | None = None
    error: Exception | None = None


def decode_image(
    reader: str | Callable[[], Any], preprocess: Preprocess, limits: ImageLimits, out: AnyArray | None = None
) -> Made:
    """Read an image, which is a path or a function, and preprocess it, into `out` if it is given."""
    path = None
    try:
        opened = reader if isinstance(reader, str) else reader()
        path = opened if isinstance(opened, (str, Path)) else None
        image, size = open_reduced(opened, preprocess.jpeg_scale, limits=limits)
        return Made(preprocess(image, out), size, path=path)
    except (ImageError, OSError, MemoryError) as error:
        reason = str(error) if isinstance(error, ImageError) else f"cannot be read: {reason_of(error)}"
        return Made(None, (0, 0), reason, path, error)


def took_too_long(time_limit: float) -> str:
    """The reason of an image that exceeds the time limit."""
    return f"took more than {time_limit:g} s to read; see --time-limit"
