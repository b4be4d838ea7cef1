"""The backend: an engine, its scratch memory and two lanes.

Two threads that call `run` get a lane each, and the copies of one overlap the other's computation; `embed`
does so (`lanes`). One thread alone always gets the same lane, and the other one's buffers stay empty.

Shapes: B batch, H W input pixels.
"""

from __future__ import annotations

import queue
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.backends import OpenOptions
from dinodeploy.backends.tensorrt.context import Scratch
from dinodeploy.backends.tensorrt.cuda import Cuda
from dinodeploy.backends.tensorrt.load import load_engine
from dinodeploy.backends.tensorrt.profiles import choose_profile, cut, read_profiles
from dinodeploy.backends.tensorrt.stream import Lane, Turn
from dinodeploy.errors import MisuseError, UnavailableError

LANES = 2


class TensorRTBackend:
    """One plan, opened. `run` is safe to call from several threads; more than two wait for a lane.

    The plan's hash and the manifest's facts have been checked (`open_plan`). When opening fails, nothing
    stays allocated.
    """

    lanes = LANES

    def __init__(self, plan: Path, options: OpenOptions, module: Any, cuda: Cuda, device: str) -> None:
        assert options.build is not None, "open_plan has checked it"
        self._module: str = module.__name__
        self.runtime = f"{self._module} {module.__version__}"
        self.device = device
        self.metadata: dict[str, str] = {}
        self._plan = plan
        self._free: queue.LifoQueue[Lane | None] = queue.LifoQueue()
        self._turn = Turn()
        self._closing = threading.Lock()
        self._closed = False
        self._engine = load_engine(module, plan, options.build, options)
        self._profiles = read_profiles(self._engine.handle, self._engine.input)
        with ExitStack() as making:
            size = self._engine.handle.device_memory_size_v2
            scratch = Scratch(cuda.device_memory(size), size)
            making.callback(cuda.free_device, scratch.address)
            for _ in range(LANES):
                lane = Lane(self._engine, cuda, scratch)
                making.callback(lane.close)
                self._free.put(lane)
            self._cleanup = making.pop_all()

    def takes(self, height: int, width: int) -> bool:
        return any(profile.takes(height, width) for profile in self._profiles)

    def run(self, pixels: FloatArray) -> dict[str, FloatArray]:
        """pixels [B,3,H,W] -> outputs by name. Raises OutsideProfileError for a size it was not built for."""
        batch, _, height, width = pixels.shape
        profile = choose_profile(self._profiles, (batch, height, width), self._plan, self._module)
        parts: list[dict[str, FloatArray]] = []
        for part, wanted in cut(pixels, profile):
            lane = self._borrow()
            try:
                outputs = lane.run(part, profile, self._turn)
            finally:
                self._free.put(lane)
            parts.append({name: output[:wanted] for name, output in outputs.items()})
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _borrow(self) -> Lane:
        lane = self._free.get()
        if lane is None:
            self._free.put(None)  # for the next one who asks
            raise MisuseError(f"{self._plan.name} has been closed; open it again")
        return lane

    def close(self) -> None:
        """Wait for what runs, then give everything back. A second time does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            for _ in range(LANES):
                self._free.get()
            self._free.put(None)
            with suppress(UnavailableError):  # of a GPU that has failed, nothing can be given back
                self._cleanup.close()
            del self._engine
