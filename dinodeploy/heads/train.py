"""Train a linear head on engine features: classes of images, or of every patch.

The engine sees every image once (`features.py`); fitting runs on the CPU in seconds to minutes. The same
images, engine and seed give the same head. `dinov3_ref/heads/files.py` describes the format of its file;
writing it needs no torch.

A patch on a border belongs to several classes, each with the share of its pixels. These soft targets avoid
resizing during training. A segmenter is scored at the input's pixels, with logits resized as the head does.

Shapes: N images, F features (D or 2D), D embed_dim, h w patch grid, p patch size, K classes, H W pixels of
the input.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray, IndexArray
from dinodeploy.bundle.manifest import canonical
from dinodeploy.embedder import Embedder
from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.files.json_file import parse_json
from dinodeploy.files.tensors import save_tensors
from dinodeploy.heads.features import Advance, Features, engine_features
from dinodeploy.heads.fit import (
    BALANCES,
    Balance,
    Fitted,
    Rows,
    confusion,
    fit_head,
    intersection_over_union,
    one_hot,
    summary,
)
from dinodeploy.heads.labelled import (
    Classified,
    Segmented,
    Split,
    read_classified,
    read_mask,
    read_segmented,
    split_at_random,
    split_by_class,
)
from dinodeploy.heads.softmax import require_scipy
from dinodeploy.images.open import open_reduced, whole
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks.dense import IGNORE, enlarge_argmax, place_mask

Log = Callable[[str], None]

TASKS = ("classify", "segment")
TRAINED_TASKS = ("multilabel", "regress")  # need gradients: --lora, --unfreeze
POOLINGS = ("cls", "cls_mean")
MAX_PATCHES = 200_000  # used for fitting; a random subset where there are more

FORMAT = 1
METADATA_KEY = "dinodeploy.head"
LICENCE = "trained by dinodeploy train-head: the licence is up to the owner of the images"


@dataclass(frozen=True)
class TrainOptions:
    """Options of training. Raises MisuseError for an unknown value."""

    task: str
    pooling: str = "cls_mean"
    balance: Balance = "balanced"
    seed: int = 0
    cache: Path | None = None  # folder for features; None: no cache

    def __post_init__(self) -> None:
        if self.task in TRAINED_TASKS:
            raise MisuseError(
                f"--task {self.task}: frozen features are for classify and segment; give --unfreeze 0 "
                "(the head alone) or --lora RANK, with --weights"
            )
        for option, value, known in (
            ("--task", self.task, TASKS),
            ("--pooling", self.pooling, POOLINGS),
            ("--class-weight", self.balance, BALANCES),
        ):
            if value not in known:
                raise MisuseError(f"{option} {value!r}; wanted one of {', '.join(known)}")


@dataclass(frozen=True)
class HeadFile:
    """The tensors of a head file, and its metadata (`dinov3_ref/heads/files.py` lists the fields)."""

    tensors: Mapping[str, FloatArray]
    about: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write the file atomically; the same head gives the same bytes."""
        save_tensors(path, self.tensors, {METADATA_KEY: json.dumps(self.about, sort_keys=True)})


@dataclass(frozen=True)
class Trained:
    """A trained head, its measured quality, and the images that could not be used: (id, reason)."""

    file: HeadFile
    report: dict[str, Any]
    quarantined: tuple[tuple[str, str], ...] = ()


def train_head(
    embedder: Embedder,
    data: Path,
    options: TrainOptions,
    *,
    test: Path | None = None,
    log: Log = lambda _: None,
    advance: Advance = lambda done, failed: None,
) -> Trained:
    """Train on the images in `data` and score the head on a held-out part, or on the images in `test`.

    Raises MisuseError for folders that do not have the layout of `labelled.py` or hold too few images,
    UnavailableError where scipy is missing.
    """
    require_scipy()
    if options.task == "classify":
        return train_classifier(embedder, data, options, test, log, advance)
    if test is not None:
        raise MisuseError("--test is for --task classify; a segmenter holds out images of --data")
    return train_segmenter(embedder, data, options, log, advance)


def train_classifier(
    embedder: Embedder, data: Path, options: TrainOptions, test: Path | None, log: Log, advance: Advance
) -> Trained:
    images = read_classified(data)
    tests = read_classified(test, images.classes) if test is not None else None
    x, labels, found = _features(embedder, images, options, log, advance)
    classes, quarantined = len(images.classes), found.quarantined
    split = split_by_class(labels, images.classes, options.seed, test=tests is None)
    fitted = fit_head(
        _rows(x[split.train], labels[split.train], classes),
        _rows(x[split.validation], labels[split.validation], classes),
        options.balance,
        log,
    )
    test_x, test_labels = x[split.test], labels[split.test]
    if tests is not None:
        test_x, test_labels, more = _features(embedder, tests, options, log, advance)
        quarantined = (*quarantined, *more.quarantined)
    counts = confusion(test_labels, fitted.linear.logits(test_x).argmax(axis=1), classes)
    report = _report("classify", images.classes, split, len(test_labels), summary(counts), fitted, found)
    tensors = {"linear.weight": fitted.linear.weight.T, "linear.bias": fitted.linear.bias}
    head = _head_file(embedder, "linear_classifier", report, tensors, pooling=options.pooling)
    return Trained(head, report, quarantined)


def _features(
    embedder: Embedder, images: Classified, options: TrainOptions, log: Log, advance: Advance
) -> tuple[FloatArray, IndexArray, Features]:
    """(x [N,F], labels [N], features) of the readable images."""
    log(f"features of {len(images.ids)} images")
    found = engine_features(embedder, images.ids, maps=False, cache=options.cache, advance=advance)
    if not found.values:
        raise MisuseError(f"none of {len(images.ids)} images can be read: {found.quarantined[0][1]}")
    x = np.stack(found.values)
    width = embedder.manifest.model.embed_dim
    return x if options.pooling == "cls_mean" else x[:, :width], images.labels[found.rows], found


def _rows(x: FloatArray, labels: IndexArray, classes: int) -> Rows:
    return Rows(x, one_hot(labels, classes), np.ones(len(x), np.float32))


def train_segmenter(
    embedder: Embedder, data: Path, options: TrainOptions, log: Log, advance: Advance
) -> Trained:
    images = read_segmented(data)
    log(f"features of {len(images.ids)} images")
    found = engine_features(embedder, images.ids, maps=True, cache=options.cache, advance=advance)
    maps, masks, quarantined = _with_masks(found, images, embedder.preprocess)
    classes = _class_names(masks, images.names)
    split = split_at_random(len(maps), options.seed)
    patch = embedder.manifest.model.patch_size
    train, validation = (
        _patch_rows([maps[i] for i in rows], [masks[i] for i in rows], len(classes), patch, options.seed)
        for rows in (split.train, split.validation)
    )
    fitted = fit_head(train, validation, options.balance, log)
    counts = np.zeros((len(classes),) * 2, np.int64)
    for row in split.test:
        chosen = enlarge_argmax(fitted.linear.logits(maps[row]), masks[row].shape)
        there = masks[row] != IGNORE
        counts += confusion(masks[row][there], chosen[there], len(classes))
    each, mean = intersection_over_union(counts)
    quality = {**summary(counts), "mean_iou": mean, "iou": each}
    report = _report("segment", classes, split, len(split.test), quality, fitted, found)
    weight, bias = fitted.linear.weight.T[:, :, None, None], fitted.linear.bias
    config = {"size": "pixel", "layers": [], "batchnorm": False, "patch_size": patch}
    head = _head_file(
        embedder, "linear_segmenter", report, {"conv.weight": weight, "conv.bias": bias}, **config
    )
    return Trained(head, report, quarantined)


def _with_masks(
    found: Features, images: Segmented, preprocess: Preprocess
) -> tuple[list[FloatArray], list[IndexArray], tuple[tuple[str, str], ...]]:
    """Maps and masks [H,W] as the engine sees the images; an image without a usable mask is quarantined."""
    maps, masks, quarantined = [], [], list(found.quarantined)
    for row, features in zip(found.rows, found.values, strict=True):
        id_ = images.ids[row]
        try:
            mask, size = read_mask(images.masks[row]), open_reduced(id_, whole)[1]
            if mask.shape[::-1] != size:
                raise ImageError(
                    f"'{images.masks[row]}': {mask.shape[1]}x{mask.shape[0]} pixels, its image has "
                    f"{size[0]}x{size[1]}; wanted the same"
                )
            masks.append(place_mask(mask, preprocess))
            maps.append(features)
        except ImageError as error:
            quarantined.append((id_, str(error)))
    return maps, masks, tuple(quarantined)


def _class_names(masks: list[IndexArray], names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the ids 0..K-1. Raises MisuseError for a single class, or an id without a name."""
    ids = np.unique(np.concatenate([np.unique(mask) for mask in masks])) if masks else np.array([], np.int64)
    ids = ids[ids != IGNORE]
    if len(ids) < 2:
        raise MisuseError(f"the masks hold {len(ids)} class(es); wanted at least two ids besides {IGNORE}")
    largest = int(ids.max())
    if largest > IGNORE or (names and largest >= len(names)):
        known = f"classes.txt names {len(names)}" if names else f"ids end at {IGNORE - 1}"
        raise MisuseError(f"a mask holds the class id {largest}; {known}")
    return names or tuple(str(index) for index in range(largest + 1))


def _patch_rows(maps: list[FloatArray], masks: list[IndexArray], classes: int, patch: int, seed: int) -> Rows:
    """Every patch with the shares of its classes; its weight is the share of pixels not ignored."""
    shares = [_shares(mask, classes, patch) for mask in masks]
    x = np.concatenate([features.reshape(-1, features.shape[-1]) for features in maps])
    y = np.concatenate([share.reshape(-1, classes) for share in shares])
    weights = y.sum(axis=1)
    rows = np.flatnonzero(weights > 0)
    if len(rows) > MAX_PATCHES:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_PATCHES, replace=False))
    return Rows(x[rows], y[rows] / weights[rows, None], weights[rows])


def _shares(mask: IndexArray, classes: int, patch: int) -> FloatArray:
    """[H,W] -> [h,w,K]: share of every patch that each class covers; ignored pixels count for no class."""
    h, w = mask.shape[0] // patch, mask.shape[1] // patch
    tiles = mask.reshape(h, patch, w, patch)
    shares = [(tiles == index).mean(axis=(1, 3)) for index in range(classes)]
    return np.stack(shares, axis=-1).astype(np.float32)


def _report(
    task: str,
    classes: Sequence[str],
    split: Split,
    tests: int,
    scores: Mapping[str, Any],
    fitted: Fitted,
    found: Features,
) -> dict[str, Any]:
    """The report of a training, as JSON holds it. tests: number of test images."""
    return {
        "task": task,
        "classes": list(classes),
        "pictures": {"train": len(split.train), "validation": len(split.validation), "test": tests},
        **scores,
        "l2": fitted.l2,
        "tried": [{"l2": l2, "validation": score} for l2, score in fitted.tried],
        "features_cached": found.cached,
    }


def _head_file(
    embedder: Embedder, kind: str, report: dict[str, Any], tensors: Mapping[str, Any], **config: Any
) -> HeadFile:
    """A head file for the backbone of `embedder`, with the main scores of the report."""
    kept = ("pictures", "accuracy", "balanced_accuracy", "chance", "mean_iou", "l2")
    trained = {key: report[key] for key in kept if key in report}
    trained["engine"] = embedder.engine.fingerprint(embedder.preprocess)
    model, classes = embedder.manifest.model, report["classes"]
    about = {
        "format": FORMAT,
        "kind": kind,
        "config": {"embed_dim": model.embed_dim, "num_classes": len(classes), **config},
        "classes": classes,
        "backbone_sha256": model.sha256,
        "licence": LICENCE,
        "trained": parse_json(canonical(trained), "the report", "small"),
    }
    return HeadFile({name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}, about)
