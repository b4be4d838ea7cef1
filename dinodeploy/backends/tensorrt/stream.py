"""One CUDA stream with its buffers and contexts: copy in, compute, copy out.

Streams overlap in their copies. Their computations share the engine's scratch memory and therefore run one
after another (`Turn`). A stream is used by one thread at a time.

Shapes: B batch, H W input pixels.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray
from dinodeploy.backends.tensorrt.context import AimedContext, Scratch, captures_by_itself
from dinodeploy.backends.tensorrt.cuda import Cuda, host_view
from dinodeploy.backends.tensorrt.load import Engine
from dinodeploy.backends.tensorrt.profiles import Profile
from dinodeploy.errors import UnavailableError

Key = tuple[tuple[int, ...], int]  # input shape, [B,3,H,W] or [B,H,W,3], and profile

# Shapes kept as graphs, per stream; the least recently used is dropped first. Each has a context, which
# keeps memory of its own: fewer where the CPU has to live in the same memory.
GRAPHS, GRAPHS_IN_SHARED_MEMORY = 8, 2
REMEMBERED = 256  # shapes known to have come before
_FLOAT_BYTES = 4


class Turn:
    """The order of computations: each waits for the one before it, on the GPU and not in Python."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.before: Any = None  # the event of the latest computation


class Buffer:
    """Device memory and pinned host memory of one tensor: grows, never shrinks."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.device = self.host = self.size = 0

    def reserve(self, size: int) -> bool:
        """Make room for `size` bytes; whether the addresses are new."""
        if size <= self.size:
            return False
        self.close()
        self.device = self._cuda.device_memory(size)
        self.host = self._cuda.pinned_memory(size)
        self.size = size
        return True

    def array(self, shape: tuple[int, ...], dtype: Any = np.float32) -> AnyArray:
        """The host side as an array of `shape`, until the next `reserve`."""
        count = int(np.prod(shape))
        return host_view(self.host, count * np.dtype(dtype).itemsize).view(dtype).reshape(shape)

    def close(self) -> None:
        device, host = self.device, self.host
        self.device = self.host = self.size = 0
        with ExitStack() as both:  # the second also when the first fails
            if host:
                both.callback(self._cuda.free_pinned, host)
            if device:
                both.callback(self._cuda.free_device, device)


class Stream:
    """A CUDA stream, its buffers and contexts. When creating it fails, nothing stays allocated."""

    def __init__(self, engine: Engine, cuda: Cuda, scratch: Scratch) -> None:
        self._engine, self._cuda, self._scratch = engine, cuda, scratch
        self._aimed: OrderedDict[Key, tuple[AimedContext, dict[str, tuple[int, ...]]]] = OrderedDict()
        self._seen: OrderedDict[Key, None] = OrderedDict()
        # streaming makes an execution synchronous, which cannot be captured (NvInferRuntime.h, enqueueV3)
        self._graphs = not captures_by_itself(engine.module) and not engine.streams_weights
        self._most_graphs = GRAPHS_IN_SHARED_MEMORY if cuda.shares_memory() else GRAPHS
        self._buffers = {name: Buffer(cuda) for name in (engine.input, *engine.outputs)}
        with ExitStack() as making:
            self._stream = cuda.new_stream()
            making.callback(cuda.destroy_stream, self._stream)
            self._computed = cuda.new_event()
            making.callback(cuda.destroy_event, self._computed)
            for buffer in self._buffers.values():
                making.callback(buffer.close)
            self._general = AimedContext(engine, cuda, scratch)
            making.callback(self._general.close)
            making.callback(self._drop_graphs)
            self._cleanup = making.pop_all()

    def run(
        self, pixels: AnyArray, profile: Profile, turn: Turn, names: Sequence[str]
    ) -> dict[str, FloatArray]:
        """pixels, contiguous -> the outputs `names`, in new arrays; others stay on the GPU."""
        cuda, stream, engine = self._cuda, self._stream, self._engine
        source = self._buffers[engine.input]
        if source.reserve(pixels.nbytes):
            self._drop_graphs()
        np.copyto(source.array(pixels.shape, pixels.dtype), pixels)
        try:
            cuda.to_device(source.device, source.host, pixels.nbytes, stream)
            context, shapes = self._context_for((pixels.shape, profile.index))
            with turn.lock:
                if turn.before is not None:
                    cuda.wait(stream, turn.before)
                context.compute(stream)
                cuda.record(self._computed, stream)
                turn.before = self._computed
            for name in names:
                buffer = self._buffers[name]
                cuda.to_host(buffer.host, buffer.device, int(np.prod(shapes[name])) * _FLOAT_BYTES, stream)
        except BaseException:
            with suppress(UnavailableError):  # finish before the memory is used again
                cuda.synchronize(stream)
            raise
        cuda.synchronize(stream)
        outputs = {name: self._buffers[name].array(shapes[name]).copy() for name in names}
        self._capture(context)
        return outputs

    def _context_for(self, key: Key) -> tuple[AimedContext, dict[str, tuple[int, ...]]]:
        """A bound context: the general one at a shape's first use, its own from the second on."""
        if key in self._aimed:
            self._aimed.move_to_end(key)
            return self._aimed[key]
        if self._graphs and key in self._seen:
            try:
                return self._own_context(key)
            except UnavailableError:  # out of memory, most likely: one context can serve all shapes
                self._graphs = False
                self._drop_graphs()
        shapes = self._aim(self._general, key)
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return self._general, shapes

    def _own_context(self, key: Key) -> tuple[AimedContext, dict[str, tuple[int, ...]]]:
        """A new context for one shape, bound, in place of the one least recently used."""
        while len(self._aimed) >= self._most_graphs:
            self._aimed.popitem(last=False)[1][0].close()
        context = AimedContext(self._engine, self._cuda, self._scratch)
        try:
            shapes = self._aim(context, key)
        except BaseException:
            context.close()
            raise
        self._aimed[key] = context, shapes
        return context, shapes

    def _aim(self, context: AimedContext, key: Key) -> dict[str, tuple[int, ...]]:
        shapes = context.aim(*key, self._stream)
        self._reserve_outputs(shapes)
        context.bind({name: buffer.device for name, buffer in self._buffers.items()})
        return shapes

    def _reserve_outputs(self, shapes: dict[str, tuple[int, ...]]) -> None:
        grown = [self._buffers[name].reserve(int(np.prod(s)) * _FLOAT_BYTES) for name, s in shapes.items()]
        if any(grown):
            self._drop_graphs()

    def _capture(self, context: AimedContext) -> None:
        """Replay a shape's own context as a CUDA graph from now on, if the engine can be captured."""
        if context is self._general or context.captured:
            return
        try:
            context.capture(self._stream)
        except UnavailableError:
            self._graphs = False
            self._drop_graphs()

    def _drop_graphs(self) -> None:
        """CUDA graphs hold buffer addresses, so they are dropped with the buffers."""
        while self._aimed:
            self._aimed.popitem()[1][0].close()

    def close(self) -> None:
        with suppress(UnavailableError):
            self._cuda.synchronize(self._stream)
        self._cleanup.close()
