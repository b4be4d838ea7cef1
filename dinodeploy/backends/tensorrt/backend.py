"""The TensorRT backend: an engine, its scratch memory and two streams.

Two threads that call `run` get a stream each, and the copies of one overlap the computation of the other
(`parallel_runs`; `embed` does so). One thread alone always gets the same stream, and the other one's buffers
stay empty.

Shapes: B batch, H W input pixels.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray, sides_of
from dinodeploy.backends import OpenOptions
from dinodeploy.backends.tensorrt.context import Scratch
from dinodeploy.backends.tensorrt.cuda import Cuda
from dinodeploy.backends.tensorrt.load import load_engine
from dinodeploy.backends.tensorrt.profiles import choose_profile, cut, read_profiles
from dinodeploy.backends.tensorrt.stream import Stream, Turn
from dinodeploy.errors import MisuseError, UnavailableError

STREAMS = 2


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
        self._turn = Turn()
        self._closing = threading.Lock()
        self._closed = False
        self._engine = load_engine(module, plan, options.build, options, cuda)
        self._outputs = self._engine.outputs
        self._profiles = read_profiles(self._engine.handle, self._engine.input)
        with ExitStack() as making:
            size = self._engine.handle.device_memory_size_v2
            scratch = Scratch(cuda.device_memory(size), size)
            making.callback(cuda.free_device, scratch.address)
            for _ in range(STREAMS):
                stream = Stream(self._engine, cuda, scratch)
                making.callback(stream.close)
                self._free.put(stream)
            self._cleanup = making.pop_all()

    def takes(self, height: int, width: int) -> bool:
        return any(profile.takes(height, width) for profile in self._profiles)

    def run(self, pixels: AnyArray, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """pixels -> outputs by name; only those named are copied from the GPU, by default all.

        Raises OutsideProfileError for a size it was not built for.
        """
        names = self._outputs if outputs is None else outputs
        shape = (len(pixels), *sides_of(pixels))
        profile = choose_profile(self._profiles, shape, self._plan, self._module)
        parts: list[dict[str, FloatArray]] = []
        for part, wanted in cut(pixels, profile):
            stream = self._borrow()
            try:
                made = stream.run(part, profile, self._turn, names)
            finally:
                self._free.put(stream)
            parts.append({name: output[:wanted] for name, output in made.items()})
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _borrow(self) -> Stream:
        stream = self._free.get()
        if stream is None:
            self._free.put(None)  # for the next caller
            raise MisuseError(f"{self._plan.name} has been closed; open it again")
        return stream

    def close(self) -> None:
        """Wait for running calls, then free everything. A second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            for _ in range(STREAMS):
                self._free.get()
            self._free.put(None)
            with suppress(UnavailableError):  # a failed GPU frees nothing
                self._cleanup.close()
            del self._engine
