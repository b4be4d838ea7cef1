"""GPU memory of outputs that stay on the GPU: handed out, and used again when nobody holds it.

The work of a block's last user may still read it on the GPU, on a stream that is not known. A block
is therefore used again only after the whole GPU has been waited for, for several blocks together.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from dinodeploy.arrays import FloatArray
from dinodeploy.backends.tensorrt.cuda import Cuda, host_view
from dinodeploy.errors import UnavailableError

# Blocks of one size that come back before the GPU is waited for, and unused blocks that are kept: fewer where
# the CPU has to live in the same memory.
RETURNED, RETURNED_IN_SHARED_MEMORY = 4, 1
KEPT = 16


class Block:
    """Device memory of one output (a `Memory`)."""

    def __init__(self, pool: Pool, address: int, size: int) -> None:
        self.address, self.size = address, size
        self._pool = pool
        self._filled: Any = None  # event, recorded by `_filler`
        self._filler: Any = None

    def filled_by(self, stream: Any, event: Any) -> None:
        """`stream` was given what fills this, and then `event`, which it may record again later."""
        self._filler, self._filled = stream, event

    @property
    def stream(self) -> int | None:
        return None if self._pool.closed else int(self._filler)

    def order(self, stream: Any) -> None:
        with self._pool.lock:
            if not self._pool.closed:  # closing waits for everything
                with self._pool.cuda.active():
                    self._pool.cuda.wait(stream, self._filled)

    def copy(self, shape: tuple[int, ...]) -> FloatArray:
        cuda = self._pool.cuda
        with cuda.active():
            host, stream = cuda.pinned_memory(self.size), cuda.new_stream()
            try:
                self.order(stream)
                cuda.to_host(host, self.address, self.size, stream)
                cuda.synchronize(stream)
                values: FloatArray = host_view(host, math.prod(shape) * 4).view("<f4").reshape(shape).copy()
                return values
            finally:
                cuda.destroy_stream(stream)
                cuda.free_pinned(host)

    def __del__(self) -> None:
        self._pool.give_back(self.address, self.size)


class Pool:
    """The blocks of one backend. `quiet` is held while a graph is captured: nobody may wait for all then."""

    def __init__(self, cuda: Cuda, quiet: threading.Lock) -> None:
        self.cuda = cuda
        self.lock = threading.Lock()
        self.closed = False
        self._quiet = quiet
        self._most_returned = RETURNED_IN_SHARED_MEMORY if cuda.shares_memory() else RETURNED
        self._returned: deque[tuple[int, int]] = deque()  # address and size; any thread may add
        self._idle: list[tuple[int, int]] = []

    def take(self, size: int) -> Block:
        """Memory for `size` bytes. Raises UnavailableError when the GPU has no more."""
        with self.lock:
            if not any(idle == size for _, idle in self._idle):
                waiting = sum(returned == size for _, returned in tuple(self._returned))
                if waiting >= self._most_returned:
                    self._collect(KEPT)
            for index, (address, idle) in enumerate(self._idle):
                if idle == size:
                    del self._idle[index]
                    return Block(self, address, size)
            try:
                return Block(self, self.cuda.device_memory(size), size)
            except UnavailableError:  # what nobody uses may be what is missing
                self._collect(0)
                return Block(self, self.cuda.device_memory(size), size)

    def give_back(self, address: int, size: int) -> None:
        """Take a block back. Any thread calls it, where an object dies: it waits for no lock and no GPU."""
        self._returned.append((address, size))
        if self.closed:
            self._free_returned()

    def _collect(self, keep: int) -> None:
        """Make returned blocks usable, after the whole GPU has been waited for; keep at most `keep`."""
        count = len(self._returned)
        with self._quiet:
            self.cuda.synchronize_device()
        self._idle += [self._returned.popleft() for _ in range(count)]
        while len(self._idle) > keep:
            self.cuda.free_device(self._idle.pop(0)[0])

    def close(self) -> None:
        """Free what nobody holds; what somebody holds is freed when that ends."""
        with self.lock:
            self.closed = True
        self._returned.extend(self._idle)
        self._idle.clear()
        self._free_returned()

    def _free_returned(self) -> None:
        with suppress(UnavailableError, TypeError):  # TypeError: the interpreter ends
            while self._returned:
                with suppress(IndexError):  # another thread was faster
                    address, _ = self._returned.popleft()
                    with self.cuda.active():
                        self.cuda.free_device(address)
