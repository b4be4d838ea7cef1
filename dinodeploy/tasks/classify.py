"""Image classification: logits of one image -> its class, or its classes, with their probabilities.

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
    """Logits [K] -> the `top` classes by softmax, or all present ones by sigmoid, the most probable first.

    Of a head for several classes per image: `options.threshold` replaces the thresholds of the head.
    """
    logits = outputs[head.outputs[0]].astype(np.float64)
    if head.multi_label:
        chances = 0.5 * (1.0 + np.tanh(0.5 * logits))
        limits = head.settings["thresholds"] if options.threshold is None else options.threshold
        order = np.argsort(-chances, kind="stable")
        present = [int(k) for k in order[(chances >= np.asarray(limits))[order]]]
        named = [{"class": class_name(head, k), "probability": float(chances[k])} for k in present]
        return Prediction("classify", {"classes": named})
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[: options.top]
    classes = [{"class": class_name(head, int(k)), "probability": float(shares[k])} for k in best]
    return Prediction("classify", {"classes": classes})
