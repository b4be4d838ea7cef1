"""Depth and canopy height: metres of the input's pixels -> metres of the original image's pixels.

Shapes: H W pixels of the model's output, h w of the original image.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks.dense import visible_box
from dinodeploy.tasks.prediction import Prediction, PredictOptions
from dinodeploy.tasks.resize import resize_aligned


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
