"""Bilinear resizing of float maps, as `torch.nn.functional.interpolate` does it (align_corners=False).

Not antialiased: a map that shrinks is sampled. In float32 like torch, so results agree to rounding.

Shapes: h w of the given map, H W of the result.
"""

from __future__ import annotations

import numpy as np

from dinodeploy.arrays import FloatArray, IndexArray


def resize_bilinear(x: FloatArray, size: tuple[int, int]) -> FloatArray:
    """float32 [...,h,w] -> [...,H,W]."""
    return resize_rows(resize_columns(x, size[1]), size[0])


def resize_columns(x: FloatArray, width: int) -> FloatArray:
    """float32 [...,h,w] -> [...,h,W]."""
    if x.shape[-1] == width:
        return x
    low, high, weight = _sources(x.shape[-1], width)
    return x.take(low, -1) * (1 - weight) + x.take(high, -1) * weight


def resize_rows(x: FloatArray, height: int, rows: slice = slice(None)) -> FloatArray:
    """float32 [...,h,w] -> [...,H,w], or the given rows of it."""
    if x.shape[-2] == height:
        return x[..., rows, :]
    low, high, weight = _sources(x.shape[-2], height)
    column = weight[rows, None]
    return x.take(low[rows], -2) * (1 - column) + x.take(high[rows], -2) * column


def _sources(given: int, wanted: int) -> tuple[IndexArray, IndexArray, FloatArray]:
    """Both source positions of each of `wanted` pixels, and the weight of the second."""
    scale = np.float32(given) / np.float32(wanted)
    places = scale * (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    places = np.maximum(places, np.float32(0))
    low = np.minimum(places.astype(np.int64), given - 1)
    high = np.minimum(low + 1, given - 1)
    return low, high, np.clip(places - low.astype(np.float32), 0, 1).astype(np.float32)
