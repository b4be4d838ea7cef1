"""CUDA's runtime through cuda-bindings: memory, streams, events and graphs; every error code one line.

Functions of the bindings return `(error, result…)`; here an error is raised. Pointers and handles are
integers or the bindings' own objects, whatever they gave. Work is asynchronous to Python where the name of
the CUDA function says so; a failure may show at a later call, and the message says at which.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dinodeploy.arrays import ByteArray
from dinodeploy.backends.gpu_arrays import DEVICE
from dinodeploy.errors import UnavailableError

# What a user can do about an error.
FIXES = {
    "cudaErrorMemoryAllocation": "run smaller batches (--batch) or sizes (--imgsz), or free the GPU",
    "cudaErrorNoDevice": "see nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu",
    "cudaErrorDevicesUnavailable": "another process holds the GPU; see nvidia-smi",
    "cudaErrorNoKernelImageForDevice": "the engine is for another GPU: build it here with dinodeploy build",
}
OLD_DRIVER = "cudaErrorInsufficientDriver"
OTHERWISE = "the engine or the driver is at fault: see dinodeploy check, or use --device cpu"


def import_cuda() -> Any:
    """The bindings' runtime module. Raises UnavailableError with what to install."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime  # before cuda-python 12.8
        except ImportError as error:
            raise UnavailableError(
                f"plans and GPU arrays need cuda-bindings ({error}): pip install cuda-bindings; on a Jetson "
                "cuda-python of its CUDA version (docs/jetson.md)"
            ) from error
    return runtime


class Cuda:
    """CUDA's runtime module, injected, behind the few calls that we make, for GPU `DEVICE`."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    @contextmanager
    def active(self) -> Iterator[None]:
        """While open, our GPU is this thread's current one, which torch and others may have changed."""
        error, before = self._runtime.cudaGetDevice()
        if error != self._runtime.cudaError_t.cudaSuccess:
            self.forget_error()  # whatever is wrong shows at the next call
            before = DEVICE
        if before == DEVICE:
            yield
            return
        self.call("cudaSetDevice", DEVICE)
        try:
            yield
        finally:
            self.call("cudaSetDevice", before)

    def call(self, function: str, *arguments: Any) -> Any:
        """The result of one function, None where it has none. Raises UnavailableError for an error code."""
        error, *results = getattr(self._runtime, function)(*arguments)
        if error != self._runtime.cudaError_t.cudaSuccess:
            raise UnavailableError(self._explain(function, error))
        return results[0] if results else None

    def _explain(self, function: str, error: Any) -> str:
        _, name = self._runtime.cudaGetErrorName(error)
        _, text = self._runtime.cudaGetErrorString(error)
        name, text = (value.decode() if isinstance(value, bytes) else str(value) for value in (name, text))
        self.forget_error()
        fix = self._fix_driver() if name == OLD_DRIVER else FIXES.get(name, OTHERWISE)
        return f"the GPU failed at {function}: {text} ({name}); {fix}"

    def forget_error(self) -> None:
        """Clear CUDA's note of the last error of this thread, or a later call would report it again."""
        self._runtime.cudaGetLastError()

    def _fix_driver(self) -> str:
        """Bindings of a newer CUDA than the driver's fail on Jetsons, whose driver comes with the system."""
        _, version = self._runtime.cudaDriverGetVersion()
        major, minor = version // 1000, version % 1000 // 10
        return (
            f"this driver is for CUDA {major}.{minor}: update it, or install the bindings of that version "
            f"(pip install 'cuda-python=={major}.{minor}.*')"
        )

    # ---- memory: a size of 0 is taken as 1, for which CUDA gives a real address ---------------------

    def device_memory(self, size: int) -> int:
        return int(self.call("cudaMalloc", max(size, 1)))

    def free_memory(self) -> int:
        """Bytes of device memory that nobody uses."""
        return int(self.call("cudaMemGetInfo"))

    def shares_memory(self) -> bool:
        """Whether the GPU uses the CPU's memory, as on a Jetson."""
        integrated = self._runtime.cudaDeviceAttr.cudaDevAttrIntegrated
        return bool(self.call("cudaDeviceGetAttribute", integrated, DEVICE))

    def free_device(self, address: int) -> None:
        self.call("cudaFree", address)

    def pinned_memory(self, size: int) -> int:
        """Host memory that the GPU copies from and to without a detour."""
        return int(self.call("cudaHostAlloc", max(size, 1), self._runtime.cudaHostAllocDefault))

    def free_pinned(self, address: int) -> None:
        self.call("cudaFreeHost", address)

    def to_device(self, device: int, host: int, size: int, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", device, host, size, kind, stream)

    def to_host(self, host: int, device: int, size: int, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", host, device, size, kind, stream)

    def inside(self, to: int, of: int, size: int, stream: Any) -> None:
        """Copy within the GPU's memory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self.call("cudaMemcpyAsync", to, of, size, kind, stream)

    # ---- order ---------------------------------------------------------------------------------------

    def new_stream(self) -> Any:
        return self.call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)

    def synchronize(self, stream: Any) -> None:
        self.call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: Any) -> None:
        self.call("cudaStreamDestroy", stream)

    def new_event(self) -> Any:
        return self.call("cudaEventCreateWithFlags", self._runtime.cudaEventDisableTiming)

    def record(self, event: Any, stream: Any) -> None:
        self.call("cudaEventRecord", event, stream)

    def wait(self, stream: Any, event: Any) -> None:
        """Make what `stream` is given from now on wait for `event`."""
        self.call("cudaStreamWaitEvent", stream, event, 0)

    def wait_here(self, event: Any) -> None:
        """Wait until the GPU has reached `event`."""
        self.call("cudaEventSynchronize", event)

    def synchronize_device(self) -> None:
        """Wait until the GPU has nothing more to do, for anybody in this process."""
        self.call("cudaDeviceSynchronize")

    def order(self, before: Any, then: Any) -> None:
        """Make what stream `then` is given from now on wait for what `before` has been given."""
        event = self.new_event()
        try:
            self.record(event, before)
            self.wait(then, event)
        finally:
            self.destroy_event(event)  # CUDA keeps it until it has been reached

    def destroy_event(self, event: Any) -> None:
        self.call("cudaEventDestroy", event)

    # ---- graphs --------------------------------------------------------------------------------------

    @contextmanager
    def capture(self, stream: Any, kept: list[Any]) -> Iterator[None]:
        """What the block gives `stream` is not run but put into `kept`, ready to launch.

        Other threads may go on using CUDA meanwhile. A block that fails leaves no graph.
        """
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        try:
            yield
        except BaseException:
            # the block's own error is the one to tell
            error, graph = self._runtime.cudaStreamEndCapture(stream)
            if error == self._runtime.cudaError_t.cudaSuccess and graph is not None:
                self.call("cudaGraphDestroy", graph)
            self.forget_error()  # of the capture: else the next kernel's launch would be blamed for it
            raise
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            kept.append(self.call("cudaGraphInstantiate", graph, 0))
        finally:
            self.call("cudaGraphDestroy", graph)

    def launch(self, executable: Any, stream: Any) -> None:
        self.call("cudaGraphLaunch", executable, stream)

    def destroy_graph(self, executable: Any) -> None:
        self.call("cudaGraphExecDestroy", executable)


def host_view(address: int, size: int) -> ByteArray:
    """The `size` bytes at a host address, as an array that does not own them."""
    return np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8)
