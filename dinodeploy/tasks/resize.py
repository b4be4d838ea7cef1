"""Bilinear resizing of float maps, as `torch.nn.functional.interpolate` does it.

align_corners=False, but for `resize_aligned`.

Not antialiased: a map that shrinks is sampled. In float32 like torch, so results agree to rounding.

Shapes: h w of the given map, H W of the result.
"""

from __future__ import annotations

import numpy as np

from dinodeploy.arrays import FloatArray, IndexArray

Sources = tuple[IndexArray, IndexArray, FloatArray]


def resize_bilinear(x: FloatArray, size: tuple[int, int]) -> FloatArray:
    """float32 [...,h,w] -> [...,H,W]."""
    return resize_rows(resize_columns(x, size[1]), size[0])


def resize_aligned(plane: FloatArray, size: tuple[int, int]) -> FloatArray:
    """[h,w] -> [H,W]; the corner pixels of both stand on each other (align_corners=True).

    As the canopy-height model's own image processor does. Sums are in float64.
    """
    rows, columns = (_aligned_sources(old, new) for old, new in zip(plane.shape, size, strict=True))
    return _mix(_mix(plane.astype(np.float64), rows, 0), columns, 1).astype(np.float32)


def resize_columns(x: FloatArray, width: int) -> FloatArray:
    """float32 [...,h,w] -> [...,h,W]."""
    return x if x.shape[-1] == width else _mix(x, _sources(x.shape[-1], width), -1)


def resize_rows(x: FloatArray, height: int, rows: slice = slice(None)) -> FloatArray:
    """float32 [...,h,w] -> [...,H,w], or the given rows of it."""
    if x.shape[-2] == height:
        return x[..., rows, :]
    low, high, weight = _sources(x.shape[-2], height)
    return _mix(x, (low[rows], high[rows], weight[rows]), -2)


def _mix(x: FloatArray, sources: Sources, axis: int) -> FloatArray:
    """Mix both sources of each pixel along the last axis, or along the one before it."""
    low, high, weight = sources
    share = weight if axis in (-1, x.ndim - 1) else weight[:, None]
    return x.take(low, axis) * (1 - share) + x.take(high, axis) * share


def _sources(given: int, wanted: int) -> Sources:
    """Both source positions of each of `wanted` pixels, and the weight of the second."""
    scale = np.float32(given) / np.float32(wanted)
    places = scale * (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    places = np.maximum(places, np.float32(0))
    low, high = _neighbours(places, given)
    return low, high, np.clip(places - low.astype(np.float32), 0, 1).astype(np.float32)


def _aligned_sources(given: int, wanted: int) -> Sources:
    """As `_sources`, with the first and the last pixels of both in the same places."""
    step = np.float32(given - 1) / np.float32(max(wanted - 1, 1))
    places = step * np.arange(wanted, dtype=np.float32)  # in float32, as torch does
    low, high = _neighbours(places, given)
    return low, high, places - low


def _neighbours(places: FloatArray, given: int) -> tuple[IndexArray, IndexArray]:
    low = np.minimum(places.astype(np.int64), given - 1)
    return low, np.minimum(low + 1, given - 1)
