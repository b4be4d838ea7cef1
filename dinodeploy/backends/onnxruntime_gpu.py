"""GPU arrays in and out of an ONNX Runtime session on CUDA, through its IOBinding.

ONNX Runtime computes on a stream of its own and has finished when a run returns. So the CPU waits for an
input before a run, and outputs are there after it. That takes cuda-bindings, imported when it is needed.

Source: https://onnxruntime.ai/docs/api/python/api_summary.html, "Data on device".
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray
from dinodeploy.backends.gpu_arrays import DEVICE, LEGACY_STREAM, GpuArray, GpuPixels, borrow
from dinodeploy.errors import MisuseError

if TYPE_CHECKING:
    from dinodeploy.backends.tensorrt.cuda import Cuda


class OnnxRuntimeGpu:
    """What a session on CUDA can do with GPU memory (a `GpuBackend`)."""

    def __init__(self, session: Any, source: str, outputs: Sequence[str]) -> None:
        self._session, self._input, self._outputs = session, source, outputs
        self._returned: deque[Any] = deque()  # values that nobody holds; any thread may add
        self._lock = threading.Lock()
        self._cuda: Cuda | None = None
        self._arrivals: Any = None  # a stream that waits for inputs

    def borrow(self, array: Any, stream: int | None = None) -> GpuPixels:
        """A GPU array of another library as input, ordered after `stream`, or by what its library says.

        Raises UnavailableError without cuda-bindings.
        """
        cuda = self._need_cuda()
        handle = int(self._arrivals) if stream is None else stream or LEGACY_STREAM
        with cuda.active():
            return borrow(array, handle, cuda)

    def run(self, pixels: GpuPixels, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Pixels in GPU memory -> outputs by name in CPU memory."""
        values = self._run(pixels, outputs, "cpu")
        return {name: np.array(value.numpy()) for name, value in values.items()}

    def run_on_gpu(
        self, pixels: AnyArray | GpuPixels, outputs: Sequence[str] | None = None, caller: int | None = None
    ) -> dict[str, GpuArray]:
        """As `run`, with outputs that stay on the GPU. They are there; nobody has to wait for them."""
        self._need_cuda()
        values = self._run(pixels, outputs, "cuda")
        return {
            name: GpuArray(_Value(value, self._session, self._returned), tuple(value.shape()))
            for name, value in values.items()
        }

    def _run(self, pixels: AnyArray | GpuPixels, outputs: Sequence[str] | None, where: str) -> dict[str, Any]:
        names, cuda = self._outputs if outputs is None else outputs, self._need_cuda()
        if self._session is None:
            raise MisuseError("the session has been closed; open it again")
        self._free_returned(cuda)
        binding = self._session.io_binding()
        if isinstance(pixels, GpuPixels):
            with cuda.active():
                cuda.synchronize(pixels.after)
            binding.bind_input(self._input, "cuda", DEVICE, pixels.dtype, pixels.shape, pixels.address)
        else:
            binding.bind_cpu_input(self._input, pixels)
        for name in names:
            binding.bind_output(name, where, DEVICE if where == "cuda" else 0)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return dict(zip(names, binding.get_outputs(), strict=True))

    def _need_cuda(self) -> Cuda:
        with self._lock:
            if self._cuda is None:
                from dinodeploy.backends.tensorrt.cuda import Cuda, import_cuda

                cuda = Cuda(import_cuda())
                with cuda.active():
                    self._arrivals = cuda.new_stream()
                self._cuda = cuda
            return self._cuda

    def _free_returned(self, cuda: Cuda) -> None:
        """Let ONNX Runtime use the memory of returned outputs again, which their last user may still read."""
        with self._lock:
            count = len(self._returned)
            if count:
                with cuda.active():
                    cuda.synchronize_device()
            for _ in range(count):
                self._returned.popleft()

    def close(self) -> None:
        """Outputs that somebody holds keep the session."""
        self._session = None
        if self._arrivals is not None:
            assert self._cuda is not None
            with self._cuda.active():
                self._cuda.synchronize(self._arrivals)
                self._cuda.destroy_stream(self._arrivals)
            self._arrivals = self._cuda = None


class _Value:
    """An OrtValue as the memory of an output, with the session whose allocator it needs (a `Memory`)."""

    stream: int | None = None

    def __init__(self, value: Any, session: Any, returned: deque[Any]) -> None:
        self._value, self._session, self._returned = value, session, returned
        self.address = int(value.data_ptr())

    def order(self, stream: int) -> None:
        """It is filled."""

    def copy(self, shape: tuple[int, ...]) -> FloatArray:
        return np.array(self._value.numpy()).reshape(shape)

    def __del__(self) -> None:
        self._returned.append(self._value)
