"""The TensorRT backend: an engine, its scratch memory, two streams, and outputs that stay on the GPU.

Two threads that call `run` get a stream each, and the copies of one overlap the computation of the other
(`parallel_runs`; `embed` does so). One thread alone always gets the same stream, and the other one's buffers
stay empty.

Where memory allows, each stream has scratch memory of its own, so that small batches of two threads compute
in parallel; else computations take turns.

Shapes: B batch, H W input pixels.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray, sides_of
from dinodeploy.backends import OpenOptions
from dinodeploy.backends.gpu_arrays import LEGACY_STREAM, GpuArray, GpuPixels, borrow
from dinodeploy.backends.tensorrt.context import Scratch, captures_by_itself
from dinodeploy.backends.tensorrt.cuda import Cuda
from dinodeploy.backends.tensorrt.load import Engine, load_engine
from dinodeploy.backends.tensorrt.profiles import Profile, choose_profile, cut, read_profiles
from dinodeploy.backends.tensorrt.results import Block, Pool
from dinodeploy.backends.tensorrt.runtime_cache import RuntimeCache
from dinodeploy.backends.tensorrt.stream import Stream, Turn
from dinodeploy.errors import MisuseError, UnavailableError

STREAMS = 2
# Of the memory that is free, what a second scratch memory may take at most.
OWN_SCRATCH_SHARE = 1 / 8


class TensorRTBackend:
    """One plan, opened. `run` is safe to call from several threads; more than two wait for a stream.

    The plan's hash and the manifest's facts have been checked (`open_plan`). When opening fails, nothing
    stays allocated.
    """

    parallel_runs = STREAMS

    def __init__(self, plan: Path, options: OpenOptions, module: Any, cuda: Cuda, device: str) -> None:
        assert options.build is not None, "open_plan has checked it"
        self._module: str = module.__name__
        self.runtime = f"{self._module} {module.__version__}"
        self.device = device
        self.metadata: dict[str, str] = {}
        self._plan = plan
        self._free: queue.LifoQueue[Stream | None] = queue.LifoQueue()
        self._cuda = cuda
        self._closing = threading.Lock()
        self._closed = False
        with cuda.active():
            self._open(module, options)

    def _open(self, module: Any, options: OpenOptions) -> None:
        assert options.build is not None
        cuda, quiet = self._cuda, threading.Lock()
        self._engine = load_engine(module, self._plan, options.build, options, cuda)
        if captures_by_itself(module):
            kernels = RuntimeCache(self._plan, options.build, self.runtime, self.device)
            self._engine = replace(self._engine, kernels=kernels)
        self._outputs = self._engine.outputs
        self._profiles = read_profiles(self._engine.handle, self._engine.input)
        with ExitStack() as making:
            self._pool = Pool(cuda, quiet)
            making.callback(self._pool.close)
            self._arrivals = cuda.new_stream()  # waits for GPU arrays of callers, and does nothing else
            making.callback(cuda.destroy_stream, self._arrivals)
            making.callback(cuda.synchronize, self._arrivals)
            size = self._engine.handle.device_memory_size_v2
            for index in range(STREAMS):
                with suppress(UnavailableError) if index else nullcontext():  # a second one need not be
                    if not index or has_own_scratch(self._engine, cuda, size):
                        scratch, turn = Scratch(cuda.device_memory(size), size), Turn()
                        making.callback(cuda.free_device, scratch.address)
                stream = Stream(self._engine, cuda, scratch, turn, quiet)
                making.callback(stream.close)
                self._free.put(stream)
            self._cleanup = making.pop_all()

    def takes(self, height: int, width: int) -> bool:
        return any(profile.takes(height, width) for profile in self._profiles)

    @property
    def gpu(self) -> TensorRTBackend:
        """It takes and gives arrays in GPU memory."""
        return self

    def borrow(self, array: Any, stream: int | None = None) -> GpuPixels:
        """A GPU array of another library as input, ordered after `stream`, or what its library says."""
        if self._closed:
            raise self._closed_error()
        handle = int(self._arrivals) if stream is None else stream or LEGACY_STREAM
        with self._cuda.active():
            return borrow(array, handle, self._cuda)

    def run(
        self, pixels: AnyArray | GpuPixels, outputs: Sequence[str] | None = None
    ) -> dict[str, FloatArray]:
        """pixels -> outputs by name; only those named are copied from the GPU, by default all.

        Raises OutsideProfileError for a size it was not built for.
        """
        names = self._outputs if outputs is None else outputs
        profile = self._profile_for(pixels)
        with self._borrowed() as stream:
            parts = [stream.run(pixels, part, profile, names) for part in cut(len(pixels), profile)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def run_on_gpu(
        self, pixels: AnyArray | GpuPixels, outputs: Sequence[str] | None = None, caller: int | None = None
    ) -> dict[str, GpuArray]:
        """As `run`, with outputs that stay on the GPU. They may not be there yet when this returns.

        Who shares one is told to wait, by the protocol used. caller: a stream that is made to wait already;
        else this returns when GPU pixels have been read, so that they may be changed.
        """
        names = self._outputs if outputs is None else outputs
        profile = self._profile_for(pixels)
        results: dict[str, tuple[Block, tuple[int, ...]]] = {}
        with self._borrowed() as stream:
            for part in cut(len(pixels), profile):
                stream.run_into(results, self._pool, pixels, part, profile, names)
            stream.hand_over(pixels, LEGACY_STREAM if caller == 0 else caller)
        return {name: GpuArray(block, shape) for name, (block, shape) in results.items()}

    def _profile_for(self, pixels: AnyArray | GpuPixels) -> Profile:
        shape = (len(pixels), *sides_of(pixels))
        return choose_profile(self._profiles, shape, self._plan, self._module)

    @contextmanager
    def _borrowed(self) -> Iterator[Stream]:
        """A stream for this thread alone, with our GPU as its current one."""
        stream = self._free.get()
        if stream is None:
            self._free.put(None)  # for the next caller
            raise self._closed_error()
        try:
            with self._cuda.active():
                yield stream
        finally:
            self._free.put(stream)

    def _closed_error(self) -> MisuseError:
        return MisuseError(f"{self._plan.name} has been closed; open it again")

    def close(self) -> None:
        """Wait for running calls, then free everything. A second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            for _ in range(STREAMS):
                self._free.get()
            self._free.put(None)
            with suppress(UnavailableError), self._cuda.active():  # a failed GPU frees nothing
                if self._engine.kernels is not None:
                    self._engine.kernels.save()
                self._cleanup.close()
            del self._engine


def has_own_scratch(engine: Engine, cuda: Cuda, size: int) -> bool:
    """Whether each stream gets `size` bytes of scratch memory, or all share them.

    Shared: on a Jetson, where the CPU lives in the same memory; by an engine that streams its weights, which
    takes what is free; and where the second one would take more than an eighth of what is left.
    """
    if cuda.shares_memory() or engine.streams_weights:
        return False
    return size <= cuda.free_memory() * OWN_SCRATCH_SHARE
