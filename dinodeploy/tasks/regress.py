"""Regression: the numbers that a head gives for an image, by name.

Shapes: K values.
"""

from __future__ import annotations

from collections.abc import Mapping

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks.prediction import Prediction, PredictOptions, class_name


def predict_one(
    outputs: Mapping[str, FloatArray],
    head: HeadFacts,
    size: tuple[int, int],
    preprocess: Preprocess,
    options: PredictOptions,
) -> Prediction:
    """Values [K] -> a number for each name."""
    values = outputs[head.outputs[0]]
    return Prediction("regress", {"values": {class_name(head, k): float(v) for k, v in enumerate(values)}})
