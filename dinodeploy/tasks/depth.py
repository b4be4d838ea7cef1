"""Depth and canopy height: metres of the input's pixels -> metres of the original image's pixels.

Shapes: H W pixels of the model's output, h w of the original image.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from dinodeploy.arrays import FloatArray, IndexArray
from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks.dense import visible_box
from dinodeploy.tasks.prediction import Prediction, PredictOptions


def predict_one(
    outputs: Mapping[str, FloatArray],
    head: HeadFacts,
    size: tuple[int, int],
    preprocess: Preprocess,
    options: PredictOptions,
) -> Prediction:
    """Metres [1,H,W] -> nearest, median and farthest, and metres [h,w], NaN outside the visible part."""
    left, top, right, bottom = visible_box(preprocess, size)
    metres = np.ascontiguousarray(outputs[head.outputs[0]][0])
    if head.settings.get("align_corners"):
        inside = resize_aligned(metres, (bottom - top, right - left))
    else:
        plane = Image.fromarray(metres)
        inside = np.asarray(plane.resize((right - left, bottom - top), Image.Resampling.BILINEAR))
    dense = np.full(size[::-1], np.nan, np.float32)
    dense[top:bottom, left:right] = inside
    values = {"nearest": inside.min(), "median": np.median(inside), "farthest": inside.max()}
    return Prediction("depth", {"metres": {word: float(value) for word, value in values.items()}}, dense)


def resize_aligned(plane: FloatArray, size: tuple[int, int]) -> FloatArray:
    """[H,W] -> [h,w] of `size`, bilinear; the corner pixels of both stand on each other.

    As the canopy-height model's own image processor does: no antialiasing where the map shrinks.
    """
    rows, columns = (_between(new, old) for new, old in zip(size, plane.shape, strict=True))
    tall = _mix(plane.astype(np.float64), rows, 0)
    return _mix(tall, columns, 1).astype(np.float32)


def _between(new: int, old: int) -> tuple[IndexArray, IndexArray, FloatArray]:
    """For each of `new` places among `old` ones: the place before, the one after, and the share of that."""
    step = np.float32(old - 1) / np.float32(max(new - 1, 1))
    where = step * np.arange(new, dtype=np.float32)  # in float32, as torch does
    before = np.minimum(where.astype(np.int64), old - 1)
    return before, np.minimum(before + 1, old - 1), where - before


def _mix(plane: FloatArray, places: tuple[IndexArray, IndexArray, FloatArray], axis: int) -> FloatArray:
    before, after, share = places
    shape = (-1, 1) if axis == 0 else (1, -1)
    part = share.reshape(shape)
    return plane.take(before, axis) * (1 - part) + plane.take(after, axis) * part
