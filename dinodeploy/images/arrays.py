"""Arrays of other libraries as numpy arrays, without a copy and without importing those libraries.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinodeploy.errors import MisuseError, reason_of

_HOST = (1, 3)  # DLPack device types in CPU memory: CPU, and pinned for CUDA


def as_pixels(pixels: Any, patch_size: int) -> NDArray[np.float32]:
    """A numpy array, or any array with DLPack, as engine input: float32 [B,3,H,W], contiguous.

    Shares the caller's memory unless that is not contiguous. Raises MisuseError for another shape, dtype or
    device, and for a size that is not a multiple of the patch size.
    """
    array = _as_array(pixels)
    if array.dtype != np.float32:
        raise MisuseError(f"pixels are {array.dtype}; wanted float32, normalised")
    if array.ndim != 4 or array.shape[1] != 3 or array.shape[0] < 1:
        raise MisuseError(f"pixels have shape {list(array.shape)}; wanted [B,3,H,W] with B >= 1")
    height, width = array.shape[2:]
    if height % patch_size or width % patch_size or not height or not width:
        raise MisuseError(
            f"pixels are {height}x{width}; wanted multiples of the patch size {patch_size}: resize or pad"
        )
    return np.ascontiguousarray(array)


def _as_array(pixels: Any) -> NDArray[Any]:
    if isinstance(pixels, np.ndarray) or not hasattr(pixels, "__dlpack__"):
        return np.asarray(pixels)
    device, number = pixels.__dlpack_device__()
    if device not in _HOST:
        raise MisuseError(
            f"pixels are on device {number} of DLPack type {int(device)}; "
            "wanted CPU memory: copy them there first"
        )
    try:
        return np.from_dlpack(pixels)
    except (BufferError, RuntimeError, TypeError) as error:  # torch: a tensor that requires grad, or bfloat16
        raise MisuseError(f"pixels cannot be shared by DLPack: {reason_of(error)}") from error
