"""Decode pictures ahead of whoever consumes them: in threads, in order, never waiting for ever.

Pillow and numpy let go of the interpreter while they work, so threads scale as processes would, without
copying pixels. A picture that takes longer than the limit (a dead network drive) is given up, and so is one
whose thread has died; the thread is replaced. Nobody waits at the end for a thread that hangs.

Shapes: H, W input pixels.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import ImageError, reason_of
from dinodeploy.hardware.cores import hardware_threads
from dinodeploy.images.open import open_reduced
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.sources import FileSource, Source

MAX_DECODERS = 8
TIME_LIMIT = 120.0  # seconds for one picture; the largest that is let through takes a few
_PATROL = 0.25  # seconds between looks at a thread that is waited for
_GOODBYE = 5.0  # seconds that threads have to end their last picture


@dataclass(frozen=True)
class Decoded:
    """One picture, ready for the engine, or the reason why not."""

    id: str
    pixels: FloatArray | None  # [3,H,W]
    size: tuple[int, int]  # width and height of the original
    reason: str = ""
    position: int = 0  # in the listing
    path: Path | None = None  # where it is a file here
    seconds: float = 0.0  # that opening and preprocessing took


@dataclass
class _Job:
    position: int
    done: threading.Event = field(default_factory=threading.Event)
    result: Decoded | BaseException | None = None
    started: float | None = None
    thread: threading.Thread | None = None
    given_up: bool = False


def default_decoders() -> int:
    """One decoding thread for each hardware thread that is ours."""
    return min(math.ceil(hardware_threads()), MAX_DECODERS)


def pictures_ahead(batch_size: int, threads: int) -> int:
    """How many to decode ahead: two batches, and never so few that a thread stands idle."""
    return 2 * max(batch_size, threads)


def decode_ahead(ids: Sequence[str], preprocess: Preprocess, threads: int, ahead: int) -> Iterator[Decoded]:
    """Decode files, in order, never more than `ahead` of them beyond the consumer."""
    return decode_source(FileSource(ids), range(len(ids)), preprocess, threads, ahead)


def decode_source(
    source: Source,
    positions: Iterable[int],
    preprocess: Preprocess,
    threads: int,
    ahead: int,
    time_limit: float = TIME_LIMIT,
) -> Generator[Decoded, None, None]:
    """Decode those pictures of `source`, in order, never more than `ahead` of them beyond the consumer.

    `time_limit`: seconds after which one picture is given up.
    """
    decoders = _Decoders(source, preprocess, threads, time_limit)
    waiting: deque[_Job] = deque()
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
    """Daemon threads over one queue: unlike a pool's, they keep no process alive."""

    def __init__(self, source: Source, preprocess: Preprocess, threads: int, time_limit: float) -> None:
        self._source = source
        self._preprocess = preprocess
        self._time_limit = time_limit
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._started = 0
        self._threads = [self._start() for _ in range(threads)]

    def submit(self, position: int) -> _Job:
        job = _Job(position)
        self._jobs.put(job)
        return job

    def wait(self, job: _Job) -> Decoded:
        """The result of the oldest job. Raises what is no fault of its picture."""
        while not job.done.wait(_PATROL):
            if (reason := self._why_lost(job)) and not job.done.is_set():
                job.given_up = True
                return Decoded(self._source.ids[job.position], None, (0, 0), reason, job.position)
        if isinstance(job.result, BaseException):
            raise job.result
        assert job.result is not None, "set before done"
        return job.result

    def close(self) -> None:
        while True:  # what nobody will ask for
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        for _ in range(self._started):
            self._jobs.put(None)
        deadline = time.monotonic() + _GOODBYE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="decode", daemon=True)
        thread.start()
        self._started += 1
        return thread

    def _why_lost(self, job: _Job) -> str:
        """Why a job will never be done, or nothing. Lost threads are replaced."""
        self._threads = [thread if thread.is_alive() else self._start() for thread in self._threads]
        if job.thread is None or job.started is None:
            return ""
        if not job.thread.is_alive():
            return "the thread that decoded it has died"
        if time.monotonic() - job.started > self._time_limit:
            self._threads = [self._start() if thread is job.thread else thread for thread in self._threads]
            return f"took more than {self._time_limit:g} s to read; see --time-limit"
        return ""

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.thread = threading.current_thread()
            job.started = time.monotonic()
            try:
                job.result = decode(self._source, job.position, self._preprocess)
            except BaseException as error:  # it is raised where the job is waited for
                job.result = error
            job.done.set()
            if job.given_up:  # another thread has taken this one's place
                return


def decode(source: Source, position: int, preprocess: Preprocess) -> Decoded:
    """One picture of `source`. Whatever is wrong with it is its `reason`.

    Raises DinodeployError for what is no fault of the picture: a missing package, for one.
    """
    started = time.perf_counter()
    id_ = source.ids[position]
    path = None
    try:
        picture = source.image(position)
        path = Path(picture) if isinstance(picture, (str, Path)) else None
        image, size = open_reduced(picture, preprocess.jpeg_scale)
        pixels = preprocess(image)
    except (ImageError, OSError, MemoryError) as error:
        reason = str(error) if isinstance(error, ImageError) else f"cannot be read: {reason_of(error)}"
        return Decoded(id_, None, (0, 0), reason, position, path, time.perf_counter() - started)
    return Decoded(id_, pixels, size, "", position, path, time.perf_counter() - started)
