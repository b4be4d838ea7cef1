"""Decode images in processes, in order, into shared memory: `ProcessDecoders`.

Images travel in chunks of a few, and a process has two of them, so that it never waits for the next one. A
process that dies is replaced, and its images are sent again; an image that has killed two processes is
quarantined. One that exceeds the time limit is quarantined, and its process is killed.

This process does all of that in the thread that takes the images: no thread of its own, no lock, and per
chunk one write, one read and one small JSON.
"""

from __future__ import annotations

import builtins
import math
import os
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dinodeploy import errors
from dinodeploy.errors import UnavailableError, reason_of
from dinodeploy.files.json_file import parse_json
from dinodeploy.hardware.child_process import cause_of, start_process
from dinodeploy.images.limits import ImageLimits
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.decode import JOIN_SECONDS, Decoded, decode, took_too_long
from dinodeploy.pipeline.processes.messages import Reader, Setup, pickled, split
from dinodeploy.pipeline.processes.ring import Ring
from dinodeploy.sources import Source

WORKER = "dinodeploy.pipeline.processes.worker"
CHUNK = 8  # images per message, where memory allows
AHEAD = 2  # chunks that a process has at a time
MEMORY = 512 * 2**20  # bytes of decoded images ahead of the engine; fewer images per message keep to it
MOST_DEATHS = 2  # of processes that had the same image; a process may be killed from outside
FAILED_STARTS = 3  # in a row, after which the run ends
START_SECONDS = 60.0  # for the first process to start
_POLL = 0.25  # seconds between checks of the time limit
_KILLED = 0.1  # seconds that a killed process has to end
_READ = 1 << 16


@dataclass(eq=False)
class _Chunk:
    """Images that travel together. todo: numbers, in the chunk, of those without a result."""

    positions: list[int]
    readers: list[Reader]
    slots: list[int]
    todo: list[int]
    results: list[Any]
    deaths: dict[int, int] = field(default_factory=dict)


@dataclass(eq=False)
class _Process:
    """One process. chunks: that it has, oldest first. answered: messages so far.

    since: when it was started, answered, or was sent images after a pause.
    """

    number: int
    process: subprocess.Popen[bytes]
    fd: int
    chunks: deque[_Chunk] = field(default_factory=deque)
    buffer: bytearray = field(default_factory=bytearray)
    answered: int = 0
    ready: bool = False
    ended: bool = False
    since: float = field(default_factory=time.monotonic)


class ProcessDecoders:
    """The images of `source` at the positions of `shards`, in order. Close it after use.

    The pixels of an image lie in shared memory until `release`, those of a batch one after the other where no
    image of its shard was unreadable. Pixels of a keep-aspect preset are a copy.
    held: images per batch, and how many batches the consumer holds before it releases them.
    """

    def __init__(
        self,
        source: Source,
        shards: Iterable[Sequence[int]],
        preprocess: Preprocess,
        processes: int,
        held: tuple[int, int],
        time_limit: float,
        limits: ImageLimits,
    ) -> None:
        """Raises OSError where processes or their memory cannot be had."""
        self._source, self._preprocess = source, preprocess
        self._reader: Any = source.reader  # type: ignore[attr-defined]  # see `sources.source.reader_of`
        self._batches = _batches(shards, held[0])
        self._batch: deque[int] = deque()  # positions of the next images, of one batch
        self._limits, self._time_limit = limits, time_limit
        self._fixed = preprocess.steps.fit != "keep-aspect"
        shape, dtype = preprocess.largest_input
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not self._fixed:
            shape, held = (math.prod(shape),), (1, 0)
        self._chunk = max(1, min(CHUNK, MEMORY // (size * AHEAD * processes)))
        slots = AHEAD * processes * self._chunk + held[0] * (held[1] + 1)
        self._layout = (processes, slots, shape, dtype)
        self._ring = Ring(slots, shape, dtype, processes)
        self._order: deque[_Chunk] = deque()  # of chunks whose images were not taken
        self._resend: deque[_Chunk] = deque()
        self._taken: Iterator[Decoded] = iter(())
        self._selector = selectors.DefaultSelector()
        self._processes: list[_Process] = []
        self._dead: list[subprocess.Popen[bytes]] = []
        self._credits: deque[_Process] = deque()
        self._failed_starts = 0
        self._after: Sequence[int] | None = None  # the batch after the current one
        try:
            for number in range(processes):
                self._processes.append(self._start(number))
            self._await_first()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Decoded]:
        return self

    def __next__(self) -> Decoded:
        while (item := next(self._taken, None)) is None:
            self._submit()
            if self._order and not self._order[0].todo:
                self._taken = self._finished(self._order.popleft())
            elif self._order:
                self._wait(_POLL)
            else:
                item = self._decode_here()
                break
        return item

    def release(self, items: Sequence[Decoded]) -> None:
        """The pixels of these images are no longer needed."""
        for item in items:
            if item.slot >= 0:
                self._ring.release(item.slot)

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [one.process.pid for one in self._processes]

    def close(self) -> None:
        """End the processes. A killed one that the system holds (a dead network drive) is not waited for."""
        for one in self._processes:
            self._end(one)
        deadline = time.monotonic() + JOIN_SECONDS
        for process in self._dead:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        self._processes = []
        self._selector.close()
        self._ring.close()

    # ---- sending -----------------------------------------------------------------------------------

    def _submit(self) -> None:
        while self._credits:
            chunk = self._resend.popleft() if self._resend else self._next_chunk()
            if chunk is None:
                return
            self._send(self._credits.popleft(), chunk)

    def _next_chunk(self) -> _Chunk | None:
        """The next images; None at the end, or where their slots are in use."""
        if not self._batch and not self._begin_batch():
            return None
        room = self._ring.room
        if room == 0 or (room < min(self._chunk, len(self._batch)) and self._order):
            return None
        count = min(room, self._chunk, len(self._batch))
        positions = [self._batch.popleft() for _ in range(count)]
        readers = [self._reader(position) for position in positions]
        slots = [self._ring.take() for _ in positions]
        chunk = _Chunk(positions, readers, slots, list(range(len(slots))), [None] * len(slots))
        self._order.append(chunk)
        return chunk

    def _begin_batch(self) -> bool:
        """Go to the next batch, if its slots can follow one another. Skips the end of the ring for that."""
        if self._after is None:
            self._after = next(self._batches, None)
        if self._after is None or not self._ring.skip(len(self._after)):
            return False
        self._batch.extend(self._after)
        self._after = None
        return True

    def _send(self, one: _Process, chunk: _Chunk) -> None:
        if not one.chunks and one.ready:
            one.since = time.monotonic()
        one.chunks.append(chunk)
        assert one.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died; the end of its replies tells
            tasks = [(chunk.slots[index], chunk.readers[index]) for index in chunk.todo]
            os.write(one.process.stdin.fileno(), pickled(tasks))

    # ---- receiving ---------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Take replies; where none comes within `seconds`, check the time limit."""
        events = self._selector.select(seconds)
        for key, _ in events:
            one: _Process = key.data
            data = os.read(one.fd, _READ)
            one.buffer += data
            for reply in split(one.buffer):
                self._answer(one, reply)
            if not data:
                self._died(one)
        if not events:
            self._check_time()

    def _answer(self, one: _Process, reply: bytes) -> None:
        one.since = time.monotonic()
        if not one.ready:
            one.ready, self._failed_starts = True, 0
            return
        chunk = one.chunks.popleft()
        for index, result in zip(chunk.todo, parse_json(reply, "a decoding process", "line"), strict=True):
            chunk.results[index] = result
        chunk.todo = []
        one.answered += 1
        self._credits.append(one)

    def _finished(self, chunk: _Chunk) -> Iterator[Decoded]:
        """The images of a chunk. Raises what is not the fault of its image."""
        for position, reader, slot, result in zip(
            chunk.positions, chunk.readers, chunk.slots, chunk.results, strict=True
        ):
            id_, path = self._source.ids[position], reader if isinstance(reader, str) else None
            if len(result) > 3:
                seconds, width, height, *shape = result
                rows = self._ring.rows
                if self._fixed:
                    pixels = rows[slot]
                    yield Decoded(id_, pixels, (width, height), "", position, path, seconds, None, slot, rows)
                    continue
                pixels = np.array(rows[slot][: math.prod(shape)].reshape(shape))
                self._ring.release(slot)
                yield Decoded(id_, pixels, (width, height), "", position, path, seconds)
                continue
            self._ring.release(slot)
            seconds, reason, *kind = result
            if kind:
                raise _exception(kind[0], reason)
            yield Decoded(id_, None, (0, 0), reason, position, path, seconds)

    def _decode_here(self) -> Decoded:
        """The next image, where the consumer holds every slot. Raises StopIteration at the end."""
        if not self._batch:
            self._batch.extend(self._after or next(self._batches, ()))
            self._after = None
        if not self._batch:
            raise StopIteration
        return decode(self._source, self._batch.popleft(), self._preprocess, self._limits)

    # ---- processes ---------------------------------------------------------------------------------

    def _start(self, number: int) -> _Process:
        self._ring.clocks[number] = 0
        process = start_process(WORKER, inherit=[self._ring.fd])
        assert process.stdin is not None
        assert process.stdout is not None
        one = _Process(number, process, process.stdout.fileno())
        self._selector.register(one.fd, selectors.EVENT_READ, one)
        setup = Setup(self._preprocess, self._limits, self._ring.fd, number, *self._layout)
        with suppress(BrokenPipeError):
            os.write(process.stdin.fileno(), pickled(setup))
        self._credits.extend([one] * AHEAD)
        return one

    def _await_first(self) -> None:
        """Wait until a process is ready. Raises OSError if one dies before."""
        deadline = time.monotonic() + START_SECONDS
        while not any(one.ready for one in self._processes):
            for key, _ in self._selector.select(_POLL):
                one: _Process = key.data
                one.buffer += os.read(one.fd, _READ)
                if not one.buffer:
                    raise OSError(f"a process did not start ({cause_of(one.process.wait(), late=False)})")
                for reply in split(one.buffer):
                    self._answer(one, reply)
            if time.monotonic() > deadline:
                raise OSError(f"no process started within {START_SECONDS:g} s")

    def _check_time(self) -> None:
        """Kill processes whose image takes too long; the image is quarantined."""
        now = time.monotonic()
        for one in list(self._processes):
            message, index, began = self._ring.clocks[one.number]
            if not one.ready:
                if now - one.since > START_SECONDS:
                    self._died(one)
            elif not one.chunks:
                continue
            elif message == one.answered + 1:
                if now - began > self._time_limit:
                    chunk = one.chunks[0]
                    number = chunk.todo.pop(int(index))
                    chunk.results[number] = [now - began, took_too_long(self._time_limit)]
                    self._end(one)
                    self._replace(one)
            elif now - one.since > self._time_limit:  # it has not even begun
                self._died(one)

    def _died(self, one: _Process) -> None:
        """Send its images again; one that has killed two processes is quarantined."""
        try:
            cause = cause_of(one.process.wait(_KILLED), late=False)
        except subprocess.TimeoutExpired:
            cause = "no sign of life"
        self._end(one)
        if not one.ready:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                raise UnavailableError(f"decoding processes do not start ({cause}); use --decode threads")
        elif one.chunks:
            message, index, _ = self._ring.clocks[one.number]
            chunk = one.chunks[0]
            number = chunk.todo[int(index) if message == one.answered + 1 else 0]
            chunk.deaths[number] = chunk.deaths.get(number, 0) + 1
            if chunk.deaths[number] >= MOST_DEATHS:
                chunk.todo.remove(number)
                chunk.results[number] = [0.0, f"the process that decoded it died ({cause})"]
        self._replace(one)

    def _replace(self, one: _Process) -> None:
        self._credits = deque(other for other in self._credits if other is not one)
        self._resend.extend(chunk for chunk in one.chunks if chunk.todo)
        try:
            self._processes[one.number] = self._start(one.number)
        except OSError as error:
            raise UnavailableError(f"a decoding process cannot be started: {reason_of(error)}") from error

    def _end(self, one: _Process) -> None:
        """Kill a process, and forget it."""
        if one.ended:
            return
        one.ended = True
        one.process.kill()
        self._selector.unregister(one.fd)
        for pipe in (one.process.stdin, one.process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]  # both are pipes
        with suppress(subprocess.TimeoutExpired):  # before its slots are used again
            one.process.wait(_KILLED)
        self._dead.append(one.process)


def _batches(shards: Iterable[Sequence[int]], batch_size: int) -> Iterator[Sequence[int]]:
    """Positions of each batch, if every image is readable."""
    for positions in shards:
        for start in range(0, len(positions), batch_size):
            yield positions[start : start + batch_size]


def _exception(name: str, text: str) -> Exception:
    """What a process raised, of the same class where that is ours or Python's."""
    kind = getattr(errors, name, getattr(builtins, name, None))
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(TypeError):  # a class that wants other arguments
            return kind(text)
    return RuntimeError(f"{name}: {text}")
