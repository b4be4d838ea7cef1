"""What a bundle's head says about pictures, in the pictures' own pixels.

Shapes: B batch, K classes, H W pixels of the input, h w of the original picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray, FloatArray, IndexArray
from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.embedder import BATCH_SIZE, Embedder, batches_of_one_size
from dinodeploy.errors import MisuseError
from dinodeploy.heads.paint import IGNORE
from dinodeploy.heads.places import enlarge_argmax
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline import (
    Decoded,
    decode_ahead,
    default_decoders,
    limit_batch,
    pictures_ahead,
    run_ahead,
)

TASKS = ("classify", "segment", "depth")


@dataclass(frozen=True)
class Prediction:
    """One picture. `facts` is what JSON holds; `map`: class ids or metres [h,w] of a dense head."""

    id: str
    facts: dict[str, Any]
    map: AnyArray | None = None


@dataclass(frozen=True)
class Unread:
    """One picture that could not be read."""

    id: str
    reason: str


def head_of(embedder: Embedder) -> HeadFacts:
    """The head that predicts. Raises MisuseError where there is none."""
    head = embedder.manifest.head
    root = embedder.bundle.root
    if head is None:
        raise MisuseError(
            f"{root} has no head; train one: dinodeploy train-head --engine {root} --task classify --data …"
        )
    if head.task not in TASKS:
        names = ",".join(head.outputs)
        raise MisuseError(
            f"{root} has a head of features, {names}, which predicts nothing by itself; keep them: "
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
) -> Iterator[Prediction | Unread]:
    """A prediction or a reason for every picture, readable ones in order, as they are computed."""
    head = head_of(embedder)
    (name,) = head.outputs
    make = _MAKERS[head.task]
    unread: list[Unread] = []
    batch_size = limit_batch(batch_size, len(ids), embedder.backend.lanes)
    decoders = default_decoders()

    def good() -> Iterator[Decoded]:
        for item in decode_ahead(ids, preprocess, decoders, pictures_ahead(batch_size, decoders)):
            if item.pixels is not None:
                yield item
            else:
                unread.append(Unread(item.id, item.reason))

    batches = batches_of_one_size(good(), batch_size, attrgetter("pixels.shape"))
    for batch, outputs in run_ahead(embedder, batches):
        while unread:
            yield unread.pop(0)
        for item, output in zip(batch, outputs[name], strict=True):
            facts, places = make(output, head, item.size, preprocess, top)
            yield Prediction(item.id, facts, places)
    yield from unread


def _classify(
    logits: FloatArray, head: HeadFacts, size: tuple[int, int], preprocess: Preprocess, top: int
) -> tuple[dict[str, Any], None]:
    """[K] -> the best classes with their probabilities."""
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[:top]
    return {
        "classes": [{"class": class_name(head, int(k)), "probability": float(shares[k])} for k in best]
    }, None


def _segment(
    logits: FloatArray, head: HeadFacts, size: tuple[int, int], preprocess: Preprocess, top: int
) -> tuple[dict[str, Any], IndexArray]:
    """[K,H,W] -> class ids of the picture, and the share of it that each class covers."""
    box = _box(preprocess, size)
    inside = enlarge_argmax(logits.transpose(1, 2, 0), (box[3] - box[1], box[2] - box[0]))
    places = np.full(size[::-1], IGNORE, np.int64)
    places[box[1] : box[3], box[0] : box[2]] = inside
    counts = np.bincount(inside.ravel(), minlength=len(logits))
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    shares = {class_name(head, k): float(counts[k] / inside.size) for k in order}
    return {"shares": shares}, places


def _depth(
    depth: FloatArray, head: HeadFacts, size: tuple[int, int], preprocess: Preprocess, top: int
) -> tuple[dict[str, Any], FloatArray]:
    """[1,H,W] -> metres of the picture, 0 outside what the input showed."""
    box = _box(preprocess, size)
    plane = Image.fromarray(np.ascontiguousarray(depth[0]))
    inside = np.asarray(plane.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR))
    places = np.zeros(size[::-1], np.float32)
    places[box[1] : box[3], box[0] : box[2]] = inside
    values = {"nearest": inside.min(), "median": np.median(inside), "farthest": inside.max()}
    return {"metres": {word: float(value) for word, value in values.items()}}, places


_MAKERS: dict[str, Callable[..., tuple[dict[str, Any], Any]]] = {
    "classify": _classify,
    "segment": _segment,
    "depth": _depth,
}


def class_name(head: HeadFacts, index: int) -> str:
    """The name of a class; its number where it has none."""
    return head.classes[index] if head.classes else str(index)


def _box(preprocess: Preprocess, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Whole pixels of a picture (width, height) that the input shows: left, top, right, bottom."""
    left, top, right, bottom = preprocess.view(*size)
    return (
        max(0, round(left)),
        max(0, round(top)),
        min(size[0], max(round(right), round(left) + 1)),
        min(size[1], max(round(bottom), round(top) + 1)),
    )
