"""One CUDA stream with its buffers and contexts: copy in, compute, copy out.

Streams overlap in their copies. Computations that share scratch memory run one after another (`Turn`). A
stream is used by one thread at a time.

Shapes: B batch, H W input pixels.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray
from dinodeploy.backends.gpu_arrays import GpuPixels
from dinodeploy.backends.tensorrt.context import AimedContext, Scratch, captures_by_itself
from dinodeploy.backends.tensorrt.cuda import Cuda, host_view
from dinodeploy.backends.tensorrt.load import Engine
from dinodeploy.backends.tensorrt.profiles import Part, Profile
from dinodeploy.backends.tensorrt.results import Block, Pool
from dinodeploy.errors import UnavailableError

Key = tuple[tuple[int, ...], int]  # input shape, [B,3,H,W] or [B,H,W,3], and profile
Shapes = dict[str, tuple[int, ...]]  # of outputs

# Shapes kept as graphs, per stream; the least recently used is dropped first. Each has a context, which
# keeps memory of its own: fewer where the CPU has to live in the same memory.
GRAPHS, GRAPHS_IN_SHARED_MEMORY = 8, 2
REMEMBERED = 256  # shapes known to have come before
_FLOAT_BYTES = 4


class Turn:
    """The order of computations that share scratch memory: each waits, on the GPU, for the one before it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.before: Any = None  # the event of the latest computation


class Buffer:
    """Device memory of one tensor, and pinned host memory once it is asked for: they grow, never shrink."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.device = self.size = 0
        self._host = self._host_size = 0

    def reserve(self, size: int) -> None:
        """Make room for `size` bytes on the device, at a new address if there is too little."""
        if size > self.size:
            self._free_device()
            self.device = self._cuda.device_memory(size)
            self.size = size

    def host(self, size: int) -> int:
        """The address of `size` bytes of pinned memory, until more are asked for."""
        if size > self._host_size:
            self._free_host()
            self._host = self._cuda.pinned_memory(size)
            self._host_size = size
        return self._host

    def array(self, shape: tuple[int, ...], dtype: Any = np.float32) -> AnyArray:
        """The pinned memory as an array of `shape`, until more is asked for."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return host_view(self.host(size), size).view(dtype).reshape(shape)

    def _free_device(self) -> None:
        device, self.device, self.size = self.device, 0, 0
        if device:
            self._cuda.free_device(device)

    def _free_host(self) -> None:
        host, self._host, self._host_size = self._host, 0, 0
        if host:
            self._cuda.free_pinned(host)

    def close(self) -> None:
        with ExitStack() as both:  # the second also when the first fails
            both.callback(self._free_host)
            both.callback(self._free_device)


class Stream:
    """A CUDA stream, its buffers and contexts. When creating it fails, nothing stays allocated.

    `quiet` is held while a graph is captured. The GPU may still be at work after `run_into`: whatever changes
    a buffer or a context then waits for it (`_settle`).
    """

    def __init__(
        self, engine: Engine, cuda: Cuda, scratch: Scratch, turn: Turn, quiet: threading.Lock
    ) -> None:
        self._engine, self._cuda, self._scratch = engine, cuda, scratch
        self._turn, self._quiet = turn, quiet
        self._aimed: OrderedDict[Key, tuple[AimedContext, Shapes]] = OrderedDict()
        self._seen: OrderedDict[Key, None] = OrderedDict()
        self._general_aim: tuple[Key, Shapes] | None = None
        # streaming makes an execution synchronous, which cannot be captured (NvInferRuntime.h, enqueueV3)
        self._graphs = not captures_by_itself(engine.module) and not engine.streams_weights
        self._most_graphs = GRAPHS_IN_SHARED_MEMORY if cuda.shares_memory() else GRAPHS
        self._buffers = {name: Buffer(cuda) for name in (engine.input, *engine.outputs)}
        self._busy = False
        with ExitStack() as making:
            self._stream = cuda.new_stream()
            making.callback(cuda.destroy_stream, self._stream)
            self._computed, self._read, self._filled = (self._new_event(making) for _ in range(3))
            for buffer in self._buffers.values():
                making.callback(buffer.close)
            self._general = AimedContext(engine, cuda, scratch)
            making.callback(self._general.close)
            making.callback(self._drop_graphs)
            self._cleanup = making.pop_all()

    def _new_event(self, making: ExitStack) -> Any:
        event = self._cuda.new_event()
        making.callback(self._cuda.destroy_event, event)
        return event

    def run(
        self, pixels: AnyArray | GpuPixels, part: Part, profile: Profile, names: Sequence[str]
    ) -> dict[str, FloatArray]:
        """Rows of pixels -> the outputs `names` in new arrays; others stay on the GPU."""
        cuda, stream = self._cuda, self._stream
        with self._waiting_on_failure():
            context, shapes = self._compute(pixels, part, profile)
            for name in names:
                buffer, size = self._buffers[name], math.prod(shapes[name]) * _FLOAT_BYTES
                cuda.to_host(buffer.host(size), buffer.device, size, stream)
        cuda.synchronize(stream)
        self._busy = False
        outputs = {name: self._buffers[name].array(shapes[name])[: part.rows].copy() for name in names}
        self._capture(context)
        return outputs

    def run_into(
        self,
        results: dict[str, tuple[Block, tuple[int, ...]]],
        pool: Pool,
        pixels: AnyArray | GpuPixels,
        part: Part,
        profile: Profile,
        names: Sequence[str],
    ) -> None:
        """As `run`, into GPU memory for the whole batch, without waiting. The first part makes `results`."""
        with self._waiting_on_failure():
            context, shapes = self._compute(pixels, part, profile)
            for name in names:
                row = math.prod(shapes[name][1:]) * _FLOAT_BYTES
                if name not in results:
                    shape = (len(pixels), *shapes[name][1:])
                    results[name] = pool.take(len(pixels) * row), shape
                block, _ = results[name]
                source = self._buffers[name].device
                self._cuda.inside(block.address + part.start * row, source, part.rows * row, self._stream)
                self._cuda.record(self._filled, self._stream)
                block.filled_by(self._stream, self._filled)
        self._capture(context)

    def hand_over(self, pixels: AnyArray | GpuPixels, caller: int | None) -> None:
        """Make stream `caller` wait for the outputs; without one, wait here until the pixels were read."""
        if caller is not None:
            self._cuda.wait(caller, self._filled)
        elif isinstance(pixels, GpuPixels):
            self._cuda.wait_here(self._read)

    @contextmanager
    def _waiting_on_failure(self) -> Iterator[None]:
        """When the block fails, what it gave the GPU ends before its memory is used again."""
        try:
            yield
        except BaseException:
            with suppress(UnavailableError):
                self._cuda.synchronize(self._stream)
            self._busy = False
            raise

    def _compute(
        self, pixels: AnyArray | GpuPixels, part: Part, profile: Profile
    ) -> tuple[AimedContext, Shapes]:
        """Give the GPU the input and the computation. The context, and the shapes of its outputs."""
        cuda, stream, turn = self._cuda, self._stream, self._turn
        shape = (part.size, *pixels.shape[1:])
        if isinstance(pixels, GpuPixels):
            self._copy_inside(pixels, part)
        else:
            self._settle()
            size = math.prod(shape) * pixels.dtype.itemsize
            self._reserve({self._engine.input: size})
            source = self._buffers[self._engine.input]
            staged = source.array(shape, pixels.dtype)
            np.copyto(staged[: part.rows], pixels[part.start : part.stop])
            staged[part.rows :] = staged[part.rows - 1]
            cuda.to_device(source.device, source.host(size), size, stream)
        context, shapes = self._context_for((shape, profile.index))
        self._busy = True
        with turn.lock:
            if turn.before is not None:
                cuda.wait(stream, turn.before)
            context.compute(stream)
            cuda.record(self._computed, stream)
            turn.before = self._computed
        return context, shapes

    def _copy_inside(self, pixels: GpuPixels, part: Part) -> None:
        """Copy rows within the GPU, after what made them: graphs need the input at one address."""
        row, stream = pixels.row_bytes, self._stream
        self._reserve({self._engine.input: part.size * row})
        source = self._buffers[self._engine.input].device
        self._cuda.order(pixels.after, stream)
        self._cuda.inside(source, pixels.address + part.start * row, part.rows * row, stream)
        for index in range(part.rows, part.size):
            self._cuda.inside(source + index * row, pixels.address + (part.stop - 1) * row, row, stream)
        self._cuda.record(self._read, stream)

    def _settle(self) -> None:
        """Wait for what the GPU still has to do here."""
        if self._busy:
            self._cuda.synchronize(self._stream)
            self._busy = False

    def _context_for(self, key: Key) -> tuple[AimedContext, Shapes]:
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
        if self._general_aim is None or self._general_aim[0] != key:
            self._general_aim = None  # should aiming fail
            self._general_aim = key, self._aim(self._general, key)
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return self._general, self._general_aim[1]

    def _own_context(self, key: Key) -> tuple[AimedContext, Shapes]:
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

    def _aim(self, context: AimedContext, key: Key) -> Shapes:
        self._settle()
        shapes = context.aim(*key, self._stream)
        self._reserve({name: math.prod(shape) * _FLOAT_BYTES for name, shape in shapes.items()})
        context.bind({name: buffer.device for name, buffer in self._buffers.items()})
        return shapes

    def _reserve(self, sizes: dict[str, int]) -> None:
        """Make room in buffers. New addresses end what is bound to the old ones."""
        grown = {name: size for name, size in sizes.items() if size > self._buffers[name].size}
        if grown:
            self._settle()
            self._general_aim = None
            self._drop_graphs()
        for name, size in grown.items():
            self._buffers[name].reserve(size)

    def _capture(self, context: AimedContext) -> None:
        """Replay a shape's own context as a CUDA graph from now on, if the engine can be captured."""
        if context is self._general or context.captured:
            return
        self._settle()
        try:
            with self._quiet:
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
