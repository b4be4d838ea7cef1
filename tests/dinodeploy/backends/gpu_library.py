"""A library of GPU arrays, as torch and CuPy are, on the fake GPU of `fake_cuda.py`.

It works late: an array is filled, and one that it was given is read, when its stream's turn comes. A missing
wait gives NaN, or what was written later. Capsules are torch's, over host memory that pretends to be the
GPU's; their layout is written here a second time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinodeploy.embedder import Embedder
from tests.dinodeploy.backends.fake_cuda import LEGACY, FakeCuda
from tests.dinodeploy.backends.fake_tensorrt import FakeTensorRT, session
from tests.dinodeploy.backends.gpu_machine import add_plan

DEVICE_AT = {b"dltensor": 8, b"dltensor_versioned": 40}  # of device type and number in the managed tensor
CPU, CUDA = 1, 2
SHAPE = (2, 3, 48, 80)
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def move_capsule(capsule: Any, device: tuple[int, int]) -> tuple[int, int]:
    """Write another device into a capsule; which it was before."""
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, (ctypes.py_object,)
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    name = name_of(capsule)
    place = (ctypes.c_int32 * 2).from_address(pointer_of(capsule, name) + DEVICE_AT[name])
    before = (place[0], place[1])
    place[0], place[1] = device
    return before


class LibraryArray:
    """An array on the fake GPU, known by `protocol`: dlpack, versioned or interface."""

    def __init__(self, library: Library, tensor: torch.Tensor, protocol: str, number: int = 0) -> None:
        self._library, self._tensor, self._number = library, tensor, number
        if protocol == "interface":
            self.__cuda_array_interface__ = {
                "version": 3,
                "shape": tuple(tensor.shape),
                "typestr": "<f4",
                "data": (tensor.data_ptr(), True),
                "strides": None,
                "stream": int(library.stream),
            }
        else:
            self.__dlpack_device__ = lambda: (CUDA, number)
            self.__dlpack__ = lambda *, stream: self._capsule(stream, versioned=protocol == "versioned")

    def _capsule(self, stream: int, *, versioned: bool) -> Any:
        self._library.order(self._library.stream, stream)
        capsule = self._tensor.__dlpack__(max_version=(1, 0) if versioned else None)
        assert move_capsule(capsule, (CUDA, self._number)) == (CPU, 0)
        return capsule


class Library:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.stream = cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking)[1]

    def order(self, before: Any, then: int) -> None:
        _, event = self.cuda.cudaEventCreateWithFlags(2)
        self.cuda.cudaEventRecord(event, before)
        self.cuda.cudaStreamWaitEvent(then or LEGACY, event, 0)
        self.cuda.cudaEventDestroy(event)

    def empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Memory of the fake GPU, all NaN."""
        _, address = self.cuda.cudaMalloc(int(np.prod(shape)) * 4)
        return torch.frombuffer(self.cuda.regions[address].memory, dtype=torch.float32).reshape(shape)

    def array(self, values: np.ndarray, protocol: str = "dlpack", number: int = 0) -> LibraryArray:
        tensor = self.empty(values.shape)
        self.write(tensor, values)
        return LibraryArray(self, tensor, protocol, number)

    def write(self, tensor: torch.Tensor, values: np.ndarray | float) -> None:
        """When the stream's turn comes."""
        kept = torch.as_tensor(values)
        self.cuda.give(self.stream, lambda: tensor.copy_(kept))

    def overwrite(self, array: LibraryArray) -> None:
        self.write(array._tensor, 7.0)

    def share(self, array: Any, max_version: tuple[int, int] | None = None) -> torch.Tensor:
        """What `from_dlpack` does, on this library's stream. Its values may not be there yet."""
        assert array.__dlpack_device__() == (CUDA, 0)
        capsule = array.__dlpack__(stream=int(self.stream), max_version=max_version)
        assert move_capsule(capsule, (CPU, 0)) == (CUDA, 0)
        return torch.from_dlpack(capsule)

    def read(self, tensor: torch.Tensor) -> Callable[[], np.ndarray]:
        """Read when the stream's turn comes; the values, after waiting for that."""
        address, shape, found = tensor.data_ptr(), tuple(tensor.shape), list[np.ndarray]()
        size = int(np.prod(shape)) * 4

        def read() -> None:  # holds no reference to the tensor, as a kernel does not
            found.append(np.frombuffer(ctypes.string_at(address, size), np.float32).reshape(shape))

        self.cuda.give(self.stream, read, (address,))

        def values() -> np.ndarray:
            self.cuda.cudaStreamSynchronize(self.stream)
            return found[0]

        return values


def open_plan(root: Path, module: FakeTensorRT, **facts: Any) -> Embedder:
    add_plan(root, module, **facts)
    return Embedder.open(root, device="tensorrt", allow_unverified=True)


def pixels(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def wanted(root: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    onnx = session(str(root / "model.onnx"))
    names = [output.name for output in onnx.get_outputs()]
    return dict(zip(names, onnx.run(names, {"pixels": x}), strict=True))


def bytes_over_the_bus(cuda: FakeCuda) -> int:
    return cuda.copied["cudaMemcpyHostToDevice"] + cuda.copied["cudaMemcpyDeviceToHost"]
