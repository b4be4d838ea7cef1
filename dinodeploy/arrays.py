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
