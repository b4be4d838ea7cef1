"""The GPU and the driver of the machine that builds, asked of the driver itself: no CUDA package needed.

A plan of TensorRT is for the compute capability it was built on; the manifest records both.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")
# CUdevice_attribute of the CUDA driver API
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """The first GPU that CUDA shows to this process."""

    compute_capability: str  # "8.9"
    driver: str  # "580.65.06"; "CUDA 13.0" where the system tells no more


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
    return Gpu(f"{major}.{minor}", _driver(cuda))


def _driver(cuda: ctypes.CDLL) -> str:
    if _DRIVER_VERSION.exists():
        text = _DRIVER_VERSION.read_text(errors="replace")
        if found := re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text):
            return found.group()
    version = _number(cuda.cuDriverGetVersion)
    return f"CUDA {version // 1000}.{version % 1000 // 10}"


def _number(function: Any, *arguments: object) -> int:
    """What a driver function writes into its first parameter."""
    value = ctypes.c_int()
    function(ctypes.byref(value), *arguments)
    return value.value
