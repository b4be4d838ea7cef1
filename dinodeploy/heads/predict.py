"""Predictions of a bundle's head, in the pixels of the original images.

Shapes: B batch, K classes, H W pixels of the input, h w of the original image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray, FloatArray, IndexArray
from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.heads.dense import IGNORE, enlarge_argmax, visible_box
from dinodeploy.heads.features import run_readable
from dinodeploy.images.limits import DEFAULT_LIMITS, ImageLimits
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.decode import Decoded
from dinodeploy.pipeline.runner import BATCH_SIZE

TASKS = ("classify", "segment", "depth")


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    facts: its JSON form. map: class ids or metres [h,w] of a segmenter or a depth head.
    """

    id: str
    facts: dict[str, Any]
    map: AnyArray | None = None


@dataclass(frozen=True)
class Unread:
    """An image that cannot be read."""

    id: str
    reason: str


def head_of(embedder: Embedder) -> HeadFacts:
    """The head of the bundle. Raises MisuseError if it has no head, or the head predicts nothing."""
    head = embedder.manifest.head
    root = embedder.bundle.home
    if head is None:
        raise MisuseError(
            f"{root} has no head; train one: dinodeploy train-head --engine {root} --task classify --data …"
        )
    if head.task not in TASKS:
        names = ",".join(head.outputs)
        raise MisuseError(
            f"{root} has a head that gives features ({names}), not predictions; store them: "
            f"dinodeploy embed IMAGES --engine {root} --outputs {names}"
        )
    return head


def predict(
    embedder: Embedder,
    ids: Sequence[str],
    preprocess: Preprocess,
    *,
    top: int = 5,
    batch_size: int = BATCH_SIZE,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Iterator[Prediction | Unread]:
    """A prediction or the reason of a failure for each image, as they are computed.

    Readable images come in order. top: number of classes that a classifier names. limits: of one image.
    """
    head = head_of(embedder)
    (name,) = head.outputs
    predict_one = _TASKS[head.task]
    unread: list[Unread] = []

    def skip(item: Decoded) -> None:
        unread.append(Unread(item.id, item.reason))

    for batch, outputs in run_readable(embedder, ids, preprocess, batch_size, skip, limits):
        while unread:
            yield unread.pop(0)
        for item, output in zip(batch, outputs[name], strict=True):
            facts, dense = predict_one(output, head, item.size, preprocess, top)
            yield Prediction(item.id, facts, dense)
    yield from unread


def _classify(
    logits: FloatArray, head: HeadFacts, size: tuple[int, int], preprocess: Preprocess, top: int
) -> tuple[dict[str, Any], None]:
    """[K] -> the `top` classes with their probabilities."""
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[:top]
    classes = [{"class": class_name(head, int(k)), "probability": float(shares[k])} for k in best]
    return {"classes": classes}, None


def _segment(
    logits: FloatArray, head: HeadFacts, size: tuple[int, int], preprocess: Preprocess, top: int
) -> tuple[dict[str, Any], IndexArray]:
    """[K,H,W] -> the share of the image that each class covers, and class ids [h,w]."""
    left, top_, right, bottom = visible_box(preprocess, size)
    inside = enlarge_argmax(logits.transpose(1, 2, 0), (bottom - top_, right - left))
    dense = np.full(size[::-1], IGNORE, np.int64)
    dense[top_:bottom, left:right] = inside
    counts = np.bincount(inside.ravel(), minlength=len(logits))
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    return {"shares": {class_name(head, k): float(counts[k] / inside.size) for k in order}}, dense


def _depth(
    depth: FloatArray, head: HeadFacts, size: tuple[int, int], preprocess: Preprocess, top: int
) -> tuple[dict[str, Any], FloatArray]:
    """[1,H,W] -> nearest, median and farthest metres, and metres [h,w], 0 outside the visible part."""
    left, top_, right, bottom = visible_box(preprocess, size)
    plane = Image.fromarray(np.ascontiguousarray(depth[0]))
    inside = np.asarray(plane.resize((right - left, bottom - top_), Image.Resampling.BILINEAR))
    dense = np.zeros(size[::-1], np.float32)
    dense[top_:bottom, left:right] = inside
    values = {"nearest": inside.min(), "median": np.median(inside), "farthest": inside.max()}
    return {"metres": {word: float(value) for word, value in values.items()}}, dense


_TASKS: dict[str, Callable[..., tuple[dict[str, Any], Any]]] = {
    "classify": _classify,
    "segment": _segment,
    "depth": _depth,
}


def class_name(head: HeadFacts, index: int) -> str:
    """The name of a class, or its number where the head has no names."""
    return head.classes[index] if head.classes else str(index)
