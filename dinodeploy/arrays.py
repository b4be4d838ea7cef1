"""Array types of signatures. Shapes stand in each docstring."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[Any]
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
IdArray = NDArray[np.int64]  # token ids
IndexArray = NDArray[np.int64]  # row numbers, class labels, counts
ByteArray = NDArray[np.uint8]  # decoded images, bytes


def sides_of(pixels: Any) -> tuple[int, int]:
    """(H, W) of an engine input: uint8 [...,H,W,3], or else [...,3,H,W]."""
    height, width = pixels.shape[-3:-1] if pixels.dtype == np.uint8 else pixels.shape[-2:]
    return height, width
