"""Object detection: class logits and boxes of queries -> boxes in the pixels of the original image.

The rules are those of `post_process_object_detection` in transformers' `RTDetrImageProcessor`: of all pairs
of a query and a class the best, as many as there are queries (one may give several classes); of them those
above the threshold, the most probable first.

Shapes: Q queries, C classes, N detections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray, IndexArray
from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks.prediction import Prediction, PredictOptions, Region, class_name

LOGITS, BOXES = "logits", "boxes"
THRESHOLD = 0.5  # of a head that names none


@dataclass(frozen=True)
class Detections:
    """Detections of one image, the most probable first.

    scores [N]; labels [N], class indices; boxes [N,4]: left, top, right, bottom in pixels.
    """

    scores: AnyArray
    labels: IndexArray
    boxes: AnyArray


def predict_one(
    outputs: Mapping[str, FloatArray],
    head: HeadFacts,
    size: tuple[int, int],
    preprocess: Preprocess,
    options: PredictOptions,
) -> Prediction:
    """logits [Q,C], boxes (cx, cy, w, h) [Q,4] in shares of the input -> one region for each detection."""
    least = options.threshold
    if least is None:
        least = float(head.settings.get("threshold", THRESHOLD))
    found = detect(outputs[LOGITS], to_pixels(outputs[BOXES], size, preprocess), least)
    regions = (
        Region(int(label), class_name(head, int(label)), float(score), (box[0], box[1], box[2], box[3]))
        for score, label, box in zip(found.scores, found.labels, found.boxes.tolist(), strict=True)
    )
    return Prediction("detect", regions=tuple(regions))


def detect(logits: FloatArray, boxes: AnyArray, threshold: float) -> Detections:
    """logits [Q,C] and a box [Q,4] a query -> the best Q pairs of query and class above `threshold`."""
    queries, classes = logits.shape
    scores = 0.5 * (1.0 + np.tanh(0.5 * logits.ravel().astype(np.float64)))
    best = np.argsort(-scores, kind="stable")[:queries]
    best = best[scores[best] > threshold]
    return Detections(scores[best], best % classes, boxes[best // classes])


def to_pixels(boxes: FloatArray, size: tuple[int, int], preprocess: Preprocess) -> AnyArray:
    """Boxes (cx, cy, w, h) [N,4] in shares of the input -> left, top, right, bottom [N,4] in the image.

    size: width and height of the image. Boxes may reach beyond its edges.
    """
    left, top, right, bottom = preprocess.view(*size)
    input_height, input_width = preprocess.target_size(*size)
    shown_height, shown_width = preprocess.shown(*size)
    across = (right - left) * input_width / shown_width
    down = (bottom - top) * input_height / shown_height
    centre, half = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64) / 2
    corners = np.concatenate([centre - half, centre + half], axis=1)
    return corners * (across, down, across, down) + (left, top, left, top)
