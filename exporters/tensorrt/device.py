"""The GPU and the driver of the machine that builds, asked of the driver itself: no CUDA package needed.

A plan of TensorRT is for the compute capability it was built on; the manifest records both.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# CUdevice_attribute of the CUDA driver API
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """The first GPU that CUDA shows to this process."""

    compute_capability: str  # "8.9"
    driver: str  # the newest CUDA that the driver can run: "12.4"


def find_gpu() -> Gpu | None:
    """The GPU of this machine, or None where there is no driver or no device."""
    try:
        cuda = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    device = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    major = _number(cuda.cuDeviceGetAttribute, _COMPUTE_CAPABILITY_MAJOR, device)
    minor = _number(cuda.cuDeviceGetAttribute, _COMPUTE_CAPABILITY_MINOR, device)
    version = _number(cuda.cuDriverGetVersion)
    if major is None or minor is None or version is None:
        return None
    return Gpu(f"{major}.{minor}", f"{version // 1000}.{version % 1000 // 10}")


def _number(function: ctypes._FuncPointer, *arguments: object) -> int | None:
    """What a driver function writes into its first parameter, or None when it fails."""
    value = ctypes.c_int()
    return None if function(ctypes.byref(value), *arguments) else value.value
