"""Image classification: logits of one image -> the best classes with their probabilities.

Shapes: K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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
    """Logits [K] -> the `top` classes by softmax, the most probable first."""
    logits = outputs[head.outputs[0]].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[: options.top]
    classes = [{"class": class_name(head, int(k)), "probability": float(shares[k])} for k in best]
    return Prediction("classify", {"classes": classes})
