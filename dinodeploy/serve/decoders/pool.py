"""Decoder processes: who decodes which image, how long it may take, and what happens when one dies.

Every image is inspected first, which takes milliseconds. Cheap ones are decoded right there. Images of more
than LIGHT seconds wait in a queue of their own, cheapest first, and one process never takes them: small
images are answered however many large ones arrive. Large images that run at the same time share a budget of
pixels, because memory is what they need.

A process that has nothing to do is asked every few seconds whether it answers. One that exceeds its CPU
seconds, its memory or its deadline is killed and replaced. Processes that do not even start are started again
with growing pauses.
"""

from __future__ import annotations

import heapq
import itertools
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.hardware.child_process import cause_of, end_process, start_process
from dinodeploy.serve.decoders.formats import seconds_by_size
from dinodeploy.serve.decoders.wire import Job, receive_reply, send_job
from dinodeploy.serve.decoders.worker import NICE
from dinodeploy.serve.refused import Refused

LIGHT = 0.1  # estimated seconds; a phone's photograph of 12 megapixels takes 0.3
LIGHT_SECONDS = 1  # of CPU time for an image that was estimated as light
STUCK = 5.0  # seconds without an answer to a light image, after which a process is killed
PING_SECONDS = 3.0  # without work, after which a process is asked whether it answers
START_SECONDS = 30.0  # for a process to start
MOST_KILLS = 4  # processes that may be killed from outside while they have the same image
MOST_PAUSE = 5.0  # seconds between attempts to start a process
_TICK = 0.1  # seconds between checks of deadlines
_REPLY = 1 << 30  # bytes of the largest result
WORKER = "dinodeploy.serve.decoders.worker"  # module of a process
_PING = Job("ping", 0, ())
_TOO_LONG = "takes too long to decode; save it as a baseline JPEG or as PNG, or shrink it"


@dataclass(frozen=True)
class Decoded:
    """pixels: float32 [3,H,W], or uint8 [H,W,3]. width, height: of the original, upright."""

    pixels: FloatArray
    width: int
    height: int


@dataclass(order=True)
class _Task:
    """A job that waits, ordered by its estimated seconds. group: of the request it belongs to."""

    seconds: float
    number: int
    job: Job = field(compare=False)
    data: bytes = field(compare=False)
    group: Hashable = field(compare=False)
    future: Future[Any] = field(compare=False, default_factory=Future)
    pixels: int = field(compare=False, default=0)
    heavy: bool = field(compare=False, default=False)
    deaths: int = field(compare=False, default=0)  # of processes that had it


@dataclass
class _Slot:
    """One thread and its process. light: never decodes large images. failed: starts that failed in a row."""

    light: bool
    process: subprocess.Popen[bytes] | None = None
    task: _Task | None = None
    deadline: float = float("inf")
    late: bool = False  # killed at its deadline
    failed: int = 0


class DecoderPool:
    """`count` processes that decode any image, and one for small images. Close it after use.

    memory: bytes that one image may need. pixels: of large images that are decoded at the same time.
    seconds: CPU time of one image. waiting: most images that wait, small and large each. The attribute `log`
    receives deaths.
    """

    def __init__(
        self,
        count: int,
        *,
        memory: int,
        pixels: int,
        seconds: int,
        waiting: int,
    ) -> None:
        self._memory, self._pixels, self._seconds, self._most = memory, pixels, seconds, waiting
        self.log: Callable[[str], None] = lambda line: None
        self._light: list[_Task] = []
        self._heavy: list[_Task] = []
        self._parked: Counter[Hashable] = Counter()  # large images of each request that wait or run
        self._running_pixels = 0
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._slots = [_Slot(light=number == count) for number in range(count + 1)]
        targets: list[tuple[str, Callable[..., None], tuple[Any, ...]]] = [
            ("decoder", self._work, (slot,)) for slot in self._slots
        ]
        targets.append(("decoder clock", self._watch, ()))
        self._threads = [
            threading.Thread(target=target, args=arguments, name=name, daemon=True)
            for name, target, arguments in targets
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job, data: bytes, group: Hashable) -> Future[Any]:
        """`Decoded`, or the bytes of a thumbnail. group: the request; a cancelled future is not decoded.

        The future raises Refused without the image's name: 413, 422, or 503 if too many images wait.
        """
        heavy = job.kind == "thumbnail"
        seconds = max(seconds_by_size(len(data)), LIGHT if heavy else 0)
        task = _Task(seconds, next(self._numbers), job, data, group, heavy=heavy or seconds >= LIGHT)
        self._queue(task)
        return task.future

    @property
    def ready(self) -> bool:
        """Whether a process is there that is not stuck."""
        with self._changed:
            now = time.monotonic()
            return not self._closed and any(
                slot.process is not None
                and slot.process.poll() is None
                and (slot.task is None or slot.task.heavy or now < slot.deadline - STUCK / 2)
                for slot in self._slots
                if not slot.failed
            )

    @property
    def parked(self) -> int:
        """Requests that wait for large images to be decoded."""
        with self._changed:
            return len(self._parked)

    @property
    def processes(self) -> list[int]:
        """Process ids."""
        with self._changed:
            return [slot.process.pid for slot in self._slots if slot.process is not None]

    def kill(self) -> None:
        """Kill the processes, and start no others."""
        with self._changed:
            self._closed = True
            for slot in self._slots:
                if slot.process is not None:
                    slot.process.kill()

    def close(self) -> None:
        """Kill the processes; waiting images are refused."""
        self.kill()
        with self._changed:
            left = [*self._light, *self._heavy]
            self._changed.notify_all()
        for task in left:
            _fail(task, Refused(503, "the service is shutting down", 1))
        for thread in self._threads:
            thread.join()

    # ---- queues ----------------------------------------------------------------------------------

    def _queue(self, task: _Task) -> None:
        shed: _Task | None = None
        with self._changed:
            if self._closed:
                shed = task
            elif task.heavy:
                self._parked[task.group] += 1
                shed = self._push(self._heavy, task)
                if shed is not None:
                    self._unpark(shed)
            else:
                shed = self._push(self._light, task)
            self._changed.notify_all()
        if shed is not None:
            _fail(shed, Refused(503, f"{self._most} images are waiting; retry later", 1))

    def _push(self, heap: list[_Task], task: _Task) -> _Task | None:
        """Add a task; if too many wait, remove and return the most expensive one."""
        heapq.heappush(heap, task)
        if len(heap) <= self._most:
            return None
        for cancelled in [one for one in heap if one.future.done()]:
            heap.remove(cancelled)
            self._unpark(cancelled)
        worst = max(heap) if len(heap) > self._most else None
        if worst is not None:
            heap.remove(worst)
        heapq.heapify(heap)
        return worst

    def _unpark(self, task: _Task) -> None:
        if task.heavy:
            self._parked[task.group] -= 1
            if not self._parked[task.group]:
                del self._parked[task.group]

    def _take(self, slot: _Slot) -> _Task | None:
        """The next task for a process; None after `close`, or if the process has died while it waited."""
        with self._changed:
            while not self._closed and slot.process is not None and slot.process.poll() is None:
                task = self._next(slot)
                if task is not None:
                    slot.task, slot.late = task, False
                    slot.deadline = time.monotonic() + (10 * self._seconds if task.heavy else 0) + STUCK
                    self._running_pixels += task.pixels
                    return task
                if not self._changed.wait(PING_SECONDS):
                    slot.task, slot.deadline = _Task(0, -1, _PING, b"", None), time.monotonic() + STUCK
                    return slot.task
            return None

    def _next(self, slot: _Slot) -> _Task | None:
        """A large image if none is running, else the cheapest one."""
        for heap in (self._light, self._heavy):
            while heap and heap[0].future.done():
                self._unpark(heapq.heappop(heap))
        heavy_runs = any(other.task is not None and other.task.heavy for other in self._slots)
        may = not slot.light and self._heavy
        if may and heavy_runs and self._running_pixels + self._heavy[0].pixels > self._pixels:
            may = False
        if may and (not heavy_runs or not self._light):
            return heapq.heappop(self._heavy)
        return heapq.heappop(self._light) if self._light else None

    def _done(self, slot: _Slot) -> None:
        with self._changed:
            if slot.task is not None:
                self._running_pixels -= slot.task.pixels
                self._unpark(slot.task)
            slot.task, slot.deadline = None, float("inf")
            self._changed.notify_all()

    # ---- processes -------------------------------------------------------------------------------

    def _work(self, slot: _Slot) -> None:
        """The thread of one process."""
        while not self._closed:
            if not self._start(slot) or (task := self._take(slot)) is None:
                continue
            again = self._run(slot, task)
            self._done(slot)
            if again is not None:
                self._queue(again)
        self._stop(slot)

    def _run(self, slot: _Slot, task: _Task) -> _Task | None:
        """Decode one image. Returns a task to queue: it is a large image, or its process had died before."""
        assert slot.process is not None
        assert slot.process.stdin is not None
        assert slot.process.stdout is not None
        heavy_from = float("inf") if (task.heavy and task.pixels) or task.job.kind == "thumbnail" else LIGHT
        seconds = self._seconds if task.heavy else LIGHT_SECONDS
        try:
            send_job(slot.process.stdin, replace(task.job, seconds=seconds, heavy_from=heavy_from), task.data)
            reply, data = receive_reply(slot.process.stdout, _REPLY)
            if "heavy" in reply:
                pixels = max(1, int(reply["pixels"]))
                return replace(task, heavy=True, seconds=float(reply["heavy"]), pixels=pixels)
            if "refused" in reply:
                _fail(task, Refused(int(reply["status"]), str(reply["refused"])))
                return None
            result = _result(reply, data, task)
        except (EOFError, OSError, LookupError, TypeError, ValueError):  # died, or its reply makes no sense
            return self._after_death(slot, task)
        with suppress(InvalidStateError):  # cancelled
            task.future.set_result(result)
        return None

    def _after_death(self, slot: _Slot, task: _Task) -> _Task | None:
        process = slot.process
        assert process is not None
        code = self._stop(slot)
        if self._closed:
            return None
        out_of_time = slot.late or code == -getattr(signal, "SIGXCPU", 0)
        self.log(f"decoder {process.pid} ended ({cause_of(code, slot.late)}); starting another one")
        if task.job.kind == "ping" or task.future.done():
            return None
        if out_of_time and not task.heavy and task.job.kind == "embed" and not slot.late:
            # its header promised less: it may take longer, where it does not delay small images
            return replace(task, heavy=True, seconds=float(self._seconds), pixels=task.job.max_pixels)
        # A process that is killed from outside may have been dying when it got the image, the next one too.
        most = MOST_KILLS if code == -getattr(signal, "SIGKILL", 9) and not slot.late else 1
        if task.deaths < most and not (out_of_time and task.heavy):
            return replace(task, deaths=task.deaths + 1)
        words = _TOO_LONG if out_of_time else "cannot be decoded: its decoder process died"
        _fail(task, Refused(422, words))
        return None

    def _start(self, slot: _Slot) -> bool:
        """Make sure the process runs. After a failure, pause and return False."""
        if slot.process is not None and slot.process.poll() is None:
            return True
        self._stop(slot)
        try:
            process = start_process(WORKER, self._memory, 0 if slot.light else NICE)
        except OSError:
            return self._pause(slot)
        with self._changed:
            slot.process, slot.late = process, False
            slot.deadline = time.monotonic() + START_SECONDS
            if self._closed:
                process.kill()
        assert process.stdout is not None
        try:
            receive_reply(process.stdout, 0)
        except (EOFError, OSError):
            code = self._stop(slot)
            if not self._closed:
                self.log(f"a decoder did not start ({cause_of(code, slot.late)})")
            return self._pause(slot)
        with self._changed:
            slot.deadline, slot.failed = float("inf"), 0
        return True

    def _pause(self, slot: _Slot) -> bool:
        with self._changed:
            slot.failed += 1
            self._changed.wait_for(lambda: self._closed, min(MOST_PAUSE, 0.1 * 2**slot.failed))
        return False

    def _stop(self, slot: _Slot) -> int:
        """Kill and reap the process. Returns its exit code."""
        with self._changed:
            process, slot.process = slot.process, None
        if process is None:
            return 0
        return end_process(process)

    def _watch(self) -> None:
        """Kill processes past their deadline, or whose large image nobody waits for any more."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._closed, _TICK):
                now = time.monotonic()
                for slot in self._slots:
                    process, task = slot.process, slot.task
                    if process is None:
                        continue
                    if process.poll() is not None:
                        self._changed.notify_all()  # its thread starts another one
                        continue
                    if now > slot.deadline:
                        slot.late = True
                        process.kill()
                    elif task is not None and task.heavy and task.future.done():
                        process.kill()


def _result(reply: dict[str, Any], data: bytes, task: _Task) -> Decoded | bytes:
    if task.job.kind != "embed":
        return data
    assert task.job.preprocess is not None
    pixels = np.frombuffer(data, task.job.preprocess.dtype).reshape([int(side) for side in reply["shape"]])
    return Decoded(pixels, int(reply["width"]), int(reply["height"]))


def _fail(task: _Task, refused: Refused) -> None:
    with suppress(InvalidStateError):  # cancelled, or failed already
        task.future.set_exception(refused)
