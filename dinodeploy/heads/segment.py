"""Train a linear classifier of patches, on masks.

A patch on a border belongs to several classes, each with the share of its pixels. These soft targets avoid
resizing during training. The head is scored at the input's pixels, with logits resized as the head does it.

Shapes: N images, h w patch grid, p patch size, D embed_dim, K classes, H W pixels of the input.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dinodeploy.arrays import FloatArray, IndexArray
from dinodeploy.embedder import Embedder
from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.heads import scores
from dinodeploy.heads.dense import IGNORE, enlarge_argmax, place_mask
from dinodeploy.heads.features import Advance, Features, engine_features
from dinodeploy.heads.fit import Rows, fit_head
from dinodeploy.heads.labelled import Segmented, read_mask, read_segmented, split_at_random
from dinodeploy.heads.trained import Log, Trained, TrainOptions, head_file, report_of
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess

MAX_PATCHES = 200_000  # used for fitting; a random subset where there are more


def train_segmenter(
    embedder: Embedder, data: Path, options: TrainOptions, log: Log, advance: Advance
) -> Trained:
    """See `train.train_head`."""
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
        counts += scores.confusion(masks[row][there], chosen[there], len(classes))
    each, mean = scores.intersection_over_union(counts)
    summary = {**scores.summary(counts), "mean_iou": mean, "iou": each}
    report = report_of("segment", classes, split, len(split.test), summary, fitted, found)
    config = {
        "embed_dim": embedder.manifest.model.embed_dim,
        "num_classes": len(classes),
        "size": "pixel",
        "layers": [],
        "batchnorm": False,
        "patch_size": patch,
    }
    tensors = {
        "conv.weight": fitted.linear.weight.T[:, :, None, None],
        "conv.bias": fitted.linear.bias,
    }
    return Trained(head_file("linear_segmenter", config, tensors, embedder, report), report, quarantined)


def _with_masks(
    found: Features, images: Segmented, preprocess: Preprocess
) -> tuple[list[FloatArray], list[IndexArray], tuple[tuple[str, str], ...]]:
    """Maps and masks [H,W] as the engine sees the images; an image without a usable mask is quarantined."""
    maps, masks, quarantined = [], [], list(found.quarantined)
    for row, features in zip(found.rows, found.values, strict=True):
        id_ = images.ids[row]
        try:
            mask, size = read_mask(images.masks[row]), open_image(id_).size
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
