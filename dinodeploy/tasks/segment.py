"""Semantic segmentation: logits per class and pixel -> a class id for every pixel of the original image.

Shapes: K classes, H W pixels of the input, h w of the original image.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dinodeploy.arrays import FloatArray, IndexArray
from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks.dense import IGNORE, enlarge_argmax, visible_box
from dinodeploy.tasks.prediction import Prediction, PredictOptions, class_name


def predict_one(
    outputs: Mapping[str, FloatArray],
    head: HeadFacts,
    size: tuple[int, int],
    preprocess: Preprocess,
    options: PredictOptions,
) -> Prediction:
    """Logits [K,H,W] -> class ids [h,w], and the share of the image that each class covers."""
    logits = outputs[head.outputs[0]]
    left, top, right, bottom = visible_box(preprocess, size)
    dense = np.full(size[::-1], IGNORE, np.int64)
    dense[top:bottom, left:right] = enlarge_argmax(logits.transpose(1, 2, 0), (bottom - top, right - left))
    return Prediction("segment", {"shares": class_shares(dense, head)}, dense)


def class_shares(dense: IndexArray, head: HeadFacts) -> dict[str, float]:
    """Class ids [h,w] -> the share of the pixels with a class that each class covers, the largest first."""
    counts = np.bincount(dense[dense != IGNORE], minlength=1)
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    return {class_name(head, k): float(counts[k] / counts.sum()) for k in order}
