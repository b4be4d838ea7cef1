"""Semantic, instance and panoptic segmentation from queries: one class and one mask each (EoMT).

The rules are those of the post-processing in transformers' `EomtImageProcessor`, at the same thresholds:
masks are resized to the model's input, the padding is cut off, and what is left is resized to the image.

    semantic   per pixel the class with the largest sum over queries of P(class) · P(mask)
    instance   queries by the product of P(class) and the mean P(mask) inside the mask; masks may overlap
    panoptic   per pixel the query with the largest P(class) · P(mask); a segment that lost too much of its
               mask to others is dropped; all segments of one stuff class (sky, road) are one

Masks are made one query at a time, because all of them at the size of a photograph take gigabytes.

Shapes: n windows of one image, Q queries, C classes, h w of a mask, H W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray, IndexArray
from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.images.windows import Windows
from dinodeploy.tasks.dense import IGNORE, visible_box
from dinodeploy.tasks.prediction import Prediction, PredictOptions, Region, class_name
from dinodeploy.tasks.resize import resize_bilinear, resize_columns, resize_rows
from dinodeploy.tasks.segment import class_shares

CLASS_LOGITS, MASK_LOGITS = "class_logits", "mask_logits"
TASKS = ("panoptic", "instance", "semantic")
DIGITS = 6  # of a score
STRIP_PIXELS = 1 << 16  # pixels whose masks are made in one step


@dataclass(frozen=True)
class Place:
    """Where an image is in the model's input.

    input: H, W of the input in pixels. shown: H, W of its part from the top left that shows the image; the
    rest is padding. size: H, W of the image's part that it shows.
    """

    input: tuple[int, int]
    shown: tuple[int, int]
    size: tuple[int, int]


@dataclass(frozen=True)
class Thresholds:
    """score: smallest score of a query. mask: of a pixel in a mask. overlap: share of its mask that a
    segment must have kept."""

    score: float = 0.8
    mask: float = 0.5
    overlap: float = 0.8


@dataclass(frozen=True)
class Segment:
    """One segment: its class, its score, and its pixels, bool [H,W]."""

    label: int
    score: float
    mask: AnyArray


def task_of(head: HeadFacts, options: PredictOptions) -> str:
    """semantic, instance or panoptic: as asked, or as the model was trained for. Raises MisuseError."""
    task = str(options.task or head.settings.get("task", TASKS[0]))
    if task == "semantic" and options.threshold is not None:
        raise MisuseError("--threshold is for instance and panoptic segmentation; leave it out")
    return task


def windows_of(head: HeadFacts, preprocess: Preprocess, options: PredictOptions) -> Windows | None:
    """How images are cut: for semantic segmentation by a model that was trained on windows."""
    if head.settings.get("split") and task_of(head, options) == "semantic":
        return Windows.of(preprocess)
    return None


def predict_one(
    outputs: Mapping[str, FloatArray],
    head: HeadFacts,
    size: tuple[int, int],
    preprocess: Preprocess,
    options: PredictOptions,
) -> Prediction:
    """Class logits [Q,C+1] and mask logits [Q,h,w] of an image of `size` (width, height) -> its prediction.

    With n windows of the image (preset "windows") both have n as first axis. Raises MisuseError.
    """
    settings = head.settings
    task = task_of(head, options)
    classes, masks = (
        np.asarray(outputs[name], np.float32).reshape(-1, *outputs[name].shape[-rank:])
        for name, rank in ((CLASS_LOGITS, 2), (MASK_LOGITS, 3))
    )
    stride = int(settings["mask_stride"])
    left, top, right, bottom = visible_box(preprocess, size)
    place = Place(
        (masks.shape[2] * stride, masks.shape[3] * stride),
        preprocess.shown(*size),
        (bottom - top, right - left),
    )
    inside = (slice(top, bottom), slice(left, right))
    if task == "semantic":
        dense = np.full(size[::-1], IGNORE, np.int64)
        starts = preprocess.starts(*size) if isinstance(preprocess, Windows) else (0,)
        dense[inside] = semantic(classes, masks, place, starts)
        return Prediction("segment", {"shares": class_shares(dense, head)}, dense)
    if len(masks) > 1:
        raise MisuseError(
            f"--task {task} needs the whole image in one input, and this model reads windows of it; "
            "use --task semantic"
        )
    limits = Thresholds(
        settings["threshold"] if options.threshold is None else options.threshold,
        settings["mask_threshold"],
        settings["overlap_mask_area_threshold"],
    )
    stuff = frozenset(settings.get("stuff_classes") or ())
    if task == "instance":
        segments = list(instances(classes[0], masks[0], place, limits.score))
    else:
        segments = panoptic(classes[0], masks[0], place, limits, stuff)
    return _prediction(task, segments, head, size, inside, stuff if task == "panoptic" else frozenset())


def _prediction(
    task: str,
    segments: Sequence[Segment],
    head: HeadFacts,
    size: tuple[int, int],
    inside: tuple[slice, slice],
    stuff: frozenset[int],
) -> Prediction:
    """Segments in order; a later one covers an earlier one in the map."""
    ids = np.zeros(size[::-1], np.int64)
    for number, segment in enumerate(segments, 1):
        ids[inside][segment.mask] = number
    regions = []
    for number, segment in enumerate(segments, 1):
        covered = not np.array_equal(ids[inside] == number, segment.mask)
        mask = np.zeros(size[::-1], bool) if covered else None
        if mask is not None:
            mask[inside] = segment.mask
        regions.append(
            Region(
                label=segment.label,
                name=class_name(head, segment.label),
                score=segment.score,
                box=_box(segment.mask, inside),
                id=number,
                mask=mask,
                thing=segment.label not in stuff,
            )
        )
    return Prediction(task, {}, ids, tuple(regions))


def _box(mask: AnyArray, inside: tuple[slice, slice]) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = inside[0].start, inside[1].start
    return (
        float(left + columns[0]),
        float(top + rows[0]),
        float(left + columns[-1] + 1),
        float(top + rows[-1] + 1),
    )


def semantic(
    class_logits: FloatArray, mask_logits: FloatArray, place: Place, starts: Sequence[int] = (0,)
) -> IndexArray:
    """Class logits [n,Q,C+1], mask logits [n,Q,h,w] -> class ids [H,W].

    starts: of each window along the longer side of the resized image `place.shown`; where windows overlap,
    their mean counts.
    """
    chances = softmax(class_logits)[..., :-1]
    sums, counts = None, None
    along = 0 if place.size[0] > place.size[1] else 1
    for chance, masks, start in zip(chances, mask_logits, starts, strict=True):
        scores = _class_scores(chance, masks, place.input)
        if len(starts) == 1:
            sums = scores[:, : place.shown[0], : place.shown[1]]
            break
        if sums is None:
            sums = np.zeros((scores.shape[0], *place.shown), np.float32)
            counts = np.zeros(place.shown, np.float32)
        assert counts is not None
        window = [slice(None), slice(None)]
        window[along] = slice(start, start + scores.shape[1 + along])
        sums[:, window[0], window[1]] += scores
        counts[window[0], window[1]] += 1
    assert sums is not None
    if counts is not None:
        sums /= np.maximum(counts, 1)
    best = np.full(place.size, -np.inf, np.float32)
    chosen = np.zeros(place.size, np.int64)
    for index, plane in enumerate(sums):
        resized = resize_bilinear(plane, place.size)
        better = resized > best
        np.copyto(best, resized, where=better)
        chosen[better] = index
    return chosen


def _class_scores(chances: FloatArray, masks: FloatArray, size: tuple[int, int]) -> FloatArray:
    """P(class) [Q,C] and mask logits [Q,h,w] -> summed scores [C,H,W] at `size`, a few rows at a time."""
    wide = resize_columns(masks, size[1])
    scores = np.empty((chances.shape[1], *size), np.float32)
    rows = max(1, STRIP_PIXELS // size[1])
    for top in range(0, size[0], rows):
        strip = resize_rows(wide, size[0], slice(top, min(top + rows, size[0])))
        scores[:, top : top + rows] = np.tensordot(chances, sigmoid(strip), (0, 0))
    return scores


def instances(
    class_logits: FloatArray, mask_logits: FloatArray, place: Place, threshold: float
) -> Iterator[Segment]:
    """Class logits [Q,C+1], mask logits [Q,h,w] -> the objects that score `threshold` or more, by query."""
    chances = softmax(class_logits)[:, :-1]
    best = chances.max(axis=-1)
    for query in np.flatnonzero(best >= threshold - 1e-3):  # the mean P(mask) is at most 1
        logits = _at_image(mask_logits[query], place)
        mask = logits > 0
        if not mask.any():
            continue
        mean = sigmoid(logits[mask]).sum(dtype=np.float64) / (mask.sum() + 1e-6)
        score = float(np.float32(best[query] * mean))
        if score >= threshold:
            yield Segment(int(chances[query].argmax()), round(score, DIGITS), mask)


def panoptic(
    class_logits: FloatArray,
    mask_logits: FloatArray,
    place: Place,
    limits: Thresholds,
    stuff: frozenset[int] = frozenset(),
) -> list[Segment]:
    """Class logits [Q,C+1], mask logits [Q,h,w] -> segments that do not overlap, in the order of queries."""
    chances = softmax(class_logits)
    scores, labels = chances.max(axis=-1), chances.argmax(axis=-1)
    kept = np.flatnonzero((labels != chances.shape[1] - 1) & (scores > np.float32(limits.score)))
    owner = np.full(place.size, -1, np.int64)
    best = np.full(place.size, -np.inf, np.float32)
    strong = np.zeros(place.size, bool)  # whether the owner's own P(mask) reaches the threshold
    areas = {}
    for query in kept:
        chance = sigmoid(_at_image(mask_logits[query], place))
        in_mask = chance >= np.float32(limits.mask)
        areas[query] = int(in_mask.sum())
        weighted = scores[query] * chance
        better = weighted > best
        np.copyto(best, weighted, where=better)
        np.copyto(strong, in_mask, where=better)
        owner[better] = query
    segments: list[Segment] = []
    merged: dict[int, int] = {}  # stuff class -> index of its segment
    for query in kept:
        owned = owner == query
        final = owned & strong
        if not final.any() or not np.float32(owned.sum()) / np.float32(areas[query]) > limits.overlap:
            continue
        label = int(labels[query])
        if label in merged:
            segments[merged[label]].mask[final] = True
            continue
        if label in stuff:
            merged[label] = len(segments)
        segments.append(Segment(label, round(float(scores[query]), DIGITS), final))
    return segments


def _at_image(logits: FloatArray, place: Place) -> FloatArray:
    """Mask logits [h,w] -> [H,W] of the image: to the input's size, without padding, to the image's."""
    at_input = resize_bilinear(logits, place.input)
    return resize_bilinear(at_input[: place.shown[0], : place.shown[1]], place.size)


def softmax(x: FloatArray) -> FloatArray:
    """Softmax along the last axis, float32."""
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + e^-x), float32, without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)
