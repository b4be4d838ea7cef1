"""Arrays in GPU memory, from and for torch, CuPy, JAX and others: DLPack and __cuda_array_interface__.

    GpuPixels    an input that its library owns, borrowed until the engine has read it
    GpuArray     an output that we own and others share

No library is imported. A capsule of ours is numpy's, with the device written into it: numpy frees it rightly
from any thread and at the interpreter's end. A capsule of others is read and never taken: its library frees
it when the last reference goes.

Sources: dlpack.h (https://github.com/dmlc/dlpack); streams: `__dlpack__` in the Python array API standard;
CUDA Array Interface, version 3 (https://nvidia.github.io/numba-cuda/user/cuda_array_interface.html).

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import MisuseError, reason_of

CPU, CUDA, CUDA_MANAGED = 1, 2, 13  # DLDeviceType
DEVICE = 0  # engines run on the first GPU that CUDA shows this process
LEGACY_STREAM = 1  # the handle of CUDA's legacy default stream; 0 means it too, where that is allowed
_DTYPE_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}  # DLDataTypeCode


class _Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned; the older DLManagedTensor begins with the tensor itself."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_capsule_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _tensor_of(capsule: Any) -> _Tensor:
    """The tensor in a capsule that nobody has taken yet. Raises ValueError for anything else."""
    name = _capsule_name(capsule)
    if name == b"dltensor":
        return _Tensor.from_address(_capsule_pointer(capsule, name))
    if name != b"dltensor_versioned":
        raise ValueError(f"its capsule is called {name!r}")
    managed = _Versioned.from_address(_capsule_pointer(capsule, name))
    if managed.major != 1:
        raise ValueError(f"it speaks DLPack {managed.major}.{managed.minor}; wanted 1")
    return managed.tensor


def is_gpu_array(array: Any) -> bool:
    """Whether an array lies in a GPU's memory. Pinned memory is the CPU's."""
    if isinstance(array, np.ndarray):
        return False
    if hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[0]) in (CUDA, CUDA_MANAGED)
    return hasattr(array, "__cuda_array_interface__")


# ---- inputs ----------------------------------------------------------------------------------------------


class Orders(Protocol):
    """CUDA, as far as it is needed here."""

    def order(self, before: Any, then: Any) -> None:
        """Make what stream `then` is given from now on wait for what `before` has been given."""
        ...


@dataclass(frozen=True)
class GpuPixels:
    """Contiguous pixels [B,3,H,W] in GPU memory, to be read after what stream `after` has been given."""

    owner: Any  # keeps the memory
    address: int
    shape: tuple[int, ...]
    dtype: Any  # numpy's; a name where numpy has none
    after: int

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * int(np.dtype(self.dtype).itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> GpuPixels:
        start, stop, _ = rows.indices(len(self))
        return replace(
            self, address=self.address + start * self.row_bytes, shape=(stop - start, *self.shape[1:])
        )


def borrow(array: Any, stream: int, cuda: Orders) -> GpuPixels:
    """What a GPU array says of itself; its library makes `stream` wait until its content is there.

    Raises MisuseError for an array of another GPU, one that is not contiguous, or that cannot be shared.
    """
    try:
        if hasattr(array, "__dlpack__"):
            return _borrow_dlpack(array, stream)
        return _borrow_interface(array.__cuda_array_interface__, array, stream, cuda)
    except MisuseError:
        raise
    except Exception as error:  # another library's: torch raises for a tensor that requires grad
        raise MisuseError(f"the GPU array of pixels cannot be shared: {reason_of(error)}") from error


def _borrow_dlpack(array: Any, stream: int) -> GpuPixels:
    number = int(array.__dlpack_device__()[1])
    if number != DEVICE:
        raise MisuseError(
            f"pixels are on GPU {number}; the engine runs on GPU {DEVICE}: copy them there, or choose the "
            "engine's GPU with CUDA_VISIBLE_DEVICES"
        )
    capsule = array.__dlpack__(stream=stream)
    tensor = _tensor_of(capsule)
    shape = tuple(tensor.shape[: tensor.ndim])
    name = f"{_DTYPE_KINDS.get(tensor.code, f'type {tensor.code} of ')}{tensor.bits}"
    if tensor.lanes != 1:
        name = f"{name}x{tensor.lanes}"
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    _check_contiguous(shape, strides)
    return GpuPixels(capsule, (tensor.data or 0) + tensor.byte_offset, shape, _dtype(name), stream)


def _borrow_interface(facts: dict[str, Any], owner: Any, stream: int, cuda: Orders) -> GpuPixels:
    if facts.get("mask") is not None:
        raise MisuseError("pixels have a mask; wanted an array without one")
    dtype, shape = np.dtype(facts["typestr"]), tuple(facts["shape"])
    strides = facts.get("strides")
    _check_contiguous(shape, strides and tuple(step // dtype.itemsize for step in strides))
    # before version 3 nobody says where the array was made: most likely on the default stream
    made_on = facts.get("stream") if facts["version"] >= 3 else LEGACY_STREAM
    if made_on is not None and made_on != stream:
        cuda.order(int(made_on), stream)
    return GpuPixels(owner, int(facts["data"][0]), shape, dtype, stream)


def _dtype(name: str) -> Any:
    try:
        return np.dtype(name)
    except TypeError:
        return name


def _check_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
    """Raises MisuseError unless strides, in elements, are those of rows one after another."""
    step = 1
    for side, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if side > 1 and stride != step:
            raise MisuseError(
                f"pixels {list(shape)} on the GPU have strides {list(strides or ())}; wanted contiguous: "
                "x.contiguous() in torch, cupy.ascontiguousarray(x)"
            )
        step *= side


# ---- outputs ---------------------------------------------------------------------------------------------


class Memory(Protocol):
    """GPU memory of one output; free again when the last reference goes."""

    address: int

    @property
    def stream(self) -> int | None:
        """The stream that fills it; None: it is filled."""
        ...

    def order(self, stream: int) -> None:
        """Make what `stream` is given from now on wait until it is filled."""
        ...

    def copy(self, shape: tuple[int, ...]) -> FloatArray: ...


class _Held:
    """Makes a numpy array over GPU memory, which nobody may read: numpy makes a DLPack capsule of it."""

    def __init__(self, memory: Memory, shape: tuple[int, ...]) -> None:
        self.memory = memory
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": "<f4",
            "data": (memory.address, False),
        }


class GpuArray:
    """One output in GPU memory: float32, contiguous. Its memory lives as long as somebody shares it.

    torch.from_dlpack, cupy.from_dlpack, jax.dlpack.from_dlpack and numba.cuda.as_cuda_array take it without a
    copy, also after the embedder was closed. `numpy()` copies it to the CPU.
    """

    def __init__(self, memory: Memory, shape: tuple[int, ...]) -> None:
        self._memory = memory
        self.shape = shape
        self.dtype = np.dtype(np.float32)

    def numpy(self) -> FloatArray:
        """A copy in CPU memory."""
        return self._memory.copy(self.shape)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": "<f4",
            "data": (self._memory.address, False),
            "strides": None,
            "stream": self._memory.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, DEVICE

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule whose content is there for whatever `stream` is given from now on.

        Raises BufferError, as the standard says, for what is not offered.
        """
        if dl_device is not None and tuple(int(part) for part in dl_device) != (CUDA, DEVICE):
            raise BufferError(f"the array is on GPU {DEVICE}; for device {dl_device} use numpy() first")
        if copy:
            raise BufferError("DLPack with copy=True is not offered: share the array, then copy it")
        if stream == 0:
            raise BufferError("stream 0 has two meanings; wanted 1 (legacy default) or 2 (per thread)")
        if stream != -1:
            self._memory.order(LEGACY_STREAM if stream is None else int(stream))
        array: Any = np.asarray(_Held(self._memory, self.shape))
        try:
            capsule = array.__dlpack__(max_version=max_version)
        except TypeError:  # numpy before 2.1
            capsule = array.__dlpack__()
        tensor = _tensor_of(capsule)
        tensor.device_type, tensor.device_id = CUDA, DEVICE
        return capsule

    def __array__(self, *_: Any, **__: Any) -> FloatArray:
        raise TypeError("the array is in GPU memory; copy it to the CPU with numpy()")

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<GpuArray float32 {list(self.shape)} on GPU {DEVICE}>"
