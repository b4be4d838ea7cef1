"""Numbers to colours, patches to pixels.

Shapes: h w patch grid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinodeploy.arrays import ByteArray

# From low to high: dark blue, violet, red, orange, pale yellow; brightness rises along the scale.
SCALE: tuple[tuple[int, int, int], ...] = (
    (13, 15, 45),
    (72, 26, 108),
    (155, 43, 106),
    (226, 88, 72),
    (249, 159, 74),
    (252, 239, 178),
)


def heat(values: NDArray[np.floating], low: float, high: float) -> ByteArray:
    """Values [h,w] -> RGB [h,w,3]; `low` and `high` are the two ends of the scale."""
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    places = np.linspace(0, 1, len(SCALE))
    channels = [np.interp(share, places, [colour[channel] for colour in SCALE]) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def enlarge(colours: ByteArray, size: tuple[int, int], *, smooth: bool = True) -> Image.Image:
    """A map at `size` (width, height) pixels. Without `smooth`, patches stay squares."""
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return Image.fromarray(colours).resize(size, resample)
