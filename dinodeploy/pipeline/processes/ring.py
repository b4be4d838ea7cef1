"""Memory that processes share: equal slots, each for the input of one image.

The memory has no name: it is reached through an inherited file descriptor (memfd_create(2); elsewhere a
deleted temporary file). So nothing is left behind however the processes end, and the size of /dev/shm, 64 MB
in a container, does not matter.

Shapes: S slots.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile

import numpy as np

from dinodeploy.arrays import AnyArray

CLOCKS = 3  # numbers of each process at the start of the memory: message, image in it, when it was begun


class Ring:
    """`slots` arrays of `shape`, taken in turn. `clocks` has a row for each of `processes` processes."""

    def __init__(self, slots: int, shape: tuple[int, ...], dtype: str, processes: int) -> None:
        """Raises OSError where the system has no such memory."""
        self.fd = _unnamed(_bytes(slots, shape, dtype, processes))
        self.clocks, self.rows = map_ring(self.fd, slots, shape, dtype, processes)
        self._in_use = [False] * slots
        self._taken = self._released = 0  # so far; released: without a gap

    @property
    def room(self) -> int:
        """How many slots can be taken."""
        return len(self._in_use) - (self._taken - self._released)

    def take(self) -> int:
        """The next slot in turn."""
        assert self.room, "asked before"
        slot = self._taken % len(self._in_use)
        self._in_use[slot] = True
        self._taken += 1
        return slot

    def skip(self, count: int) -> bool:
        """Make sure that the next `count` slots follow one another. False where slots in use forbid it."""
        left = len(self._in_use) - self._taken % len(self._in_use)
        if left >= count:
            return True
        if self.room < left:
            return False
        for _ in range(left):
            self.release(self.take())
        return True

    def release(self, slot: int) -> None:
        """Slots are taken again in turn, so one that is released early waits for those before it."""
        self._in_use[slot] = False
        while self._released < self._taken and not self._in_use[self._released % len(self._in_use)]:
            self._released += 1

    def close(self) -> None:
        """The memory itself is freed when its last array and process are gone."""
        os.close(self.fd)


def map_ring(
    fd: int, slots: int, shape: tuple[int, ...], dtype: str, processes: int
) -> tuple[AnyArray, AnyArray]:
    """The clocks, float64 [processes, CLOCKS], and the slots, [S, *shape], of the memory behind `fd`."""
    memory = mmap.mmap(fd, _bytes(slots, shape, dtype, processes))
    clocks = np.frombuffer(memory, np.float64, processes * CLOCKS).reshape(processes, CLOCKS)
    start = _start(processes)
    rows = np.frombuffer(memory, dtype, slots * math.prod(shape), start).reshape(slots, *shape)
    return clocks, rows


def _bytes(slots: int, shape: tuple[int, ...], dtype: str, processes: int) -> int:
    return _start(processes) + slots * math.prod(shape) * np.dtype(dtype).itemsize


def _start(processes: int) -> int:
    """Bytes before the first slot: whole pages."""
    return -(-processes * CLOCKS * 8 // mmap.PAGESIZE) * mmap.PAGESIZE


def _unnamed(size: int) -> int:
    """A file descriptor of `size` bytes of memory."""
    try:
        fd = os.memfd_create("decoded images")
    except (AttributeError, OSError):  # not Linux, or forbidden
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
        reserve = getattr(os, "posix_fallocate", None)
        try:
            if reserve is not None:  # a full disk is an error now, not a signal later
                reserve(fd, 0, size)
            else:
                os.ftruncate(fd, size)
        except OSError:
            os.close(fd)
            raise
        return fd
    os.ftruncate(fd, size)
    return fd
