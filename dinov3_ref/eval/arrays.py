"""Labelled embeddings in files, from any engine, without a model.

x.npz     `cls` or `features` [N,D]; `labels` [N], numbers or words, or `ids` [N], paths whose folders
          are the classes; optional `patch` [N,h,w,D] or `patch_mean` [N,D]. For several classes per image:
          `labels` [N,C] of zeros and ones, and optional `class_names` [C]
x.npy     [N,D], with labels in x.labels.npy, or one per line in x.labels.txt
a folder  written by `dinodeploy embed --format npy|npz`; the class of an image is the first folder below
          the one that all images share
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from dinov3_ref.data.datasets.encoded import number_classes
from dinov3_ref.errors import DataError, reason_of
from dinov3_ref.eval.labelled import Labelled
from dinov3_ref.json_file import parse_json

Array = NDArray[Any]

UNREADABLE = (OSError, EOFError, ValueError, KeyError, BadZipFile)  # errors on foreign files


def load_labelled(path: str | Path, *, with_patches: bool = False) -> Labelled:
    """Labelled features [N,D]; with_patches: [N,2D], CLS then the mean patch, the input of a linear probe.

    Raises `DataError` for an unknown format, or where the patches are missing.
    """
    path = Path(path)
    try:
        arrays = _read(path)
    except UNREADABLE as error:
        raise DataError(f"'{path}' cannot be read as embeddings: {reason_of(error)}") from error
    features = arrays.get("cls", arrays.get("features"))
    if features is None:
        raise DataError(f"'{path}' holds {', '.join(arrays)}; wanted features or cls")
    if with_patches:
        features = np.concatenate([features, _mean_patch(arrays, path)], axis=-1)
    numbers, names = _several(arrays, path) or number_classes(_labels(arrays, path))
    return Labelled(
        torch.from_numpy(features.astype(np.float32)), torch.from_numpy(numbers), names, str(path)
    )


def holds_patches(path: str | Path) -> bool:
    """Whether `load_labelled` can add the mean patch."""
    try:
        arrays = _read(Path(path))
    except UNREADABLE:
        return False  # `load_labelled` reports the error
    return "patch" in arrays or "patch_mean" in arrays


def _read(path: Path) -> dict[str, Array]:
    if path.is_dir():
        return _read_store(path)
    if path.suffix == ".npz":
        return _read_archive(path)
    if path.suffix == ".npy":
        labels = path.with_suffix(".labels.npy")
        text = path.with_suffix(".labels.txt")
        found = {"features": np.load(path, allow_pickle=False)}
        if labels.is_file():
            found["labels"] = np.load(labels, allow_pickle=False)
        elif text.is_file():
            found["labels"] = np.array(text.read_text("utf-8").split("\n")[: len(found["features"])])
        return found
    raise ValueError("wanted .npz, .npy or a folder written by `dinodeploy embed`")


def _read_archive(path: Path) -> dict[str, Array]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return dict(archive)


def _read_store(root: Path) -> dict[str, Array]:
    """The shards of `dinodeploy embed`, concatenated in order."""
    if shards := sorted(root.glob("shard_*.npz")):
        parts = [_read_archive(shard) for shard in shards]
        return {
            key: np.concatenate([part[key] for part in parts])
            for key in ("ids", "cls", "patch")
            if key in parts[0]
        }
    metadata = sorted(root.glob("metadata/metadata_*.jsonl"))
    if not metadata:
        raise ValueError("the folder holds neither shard_*.npz nor metadata/; embed with --format npy or npz")
    lines = [line for path in metadata for line in path.read_text("utf-8").splitlines()]
    records = [parse_json(line, str(root), "line", DataError) for line in lines]
    found = {"ids": np.array([record["image_path"] for record in records])}
    for key, folder in (("cls", "img_emb"), ("patch", "patch_emb")):
        if files := sorted((root / folder).glob("*.npy")):
            found[key] = np.concatenate([np.load(path, allow_pickle=False) for path in files])
    return found


def _mean_patch(arrays: dict[str, Array], path: Path) -> Array:
    """patch [N,h,w,D] -> [N,D]."""
    if "patch_mean" in arrays:
        return arrays["patch_mean"]
    if "patch" not in arrays:
        raise DataError(f"'{path}' has no patches; embed with --outputs cls,patch")
    patches = arrays["patch"]
    return patches.reshape(len(patches), -1, patches.shape[-1]).mean(axis=1)


def _several(arrays: dict[str, Array], path: Path) -> tuple[Array, tuple[str, ...]] | None:
    """Labels bool [N,C] of images with several classes, and class names; None for one class per image."""
    labels = arrays.get("labels")
    if labels is None or labels.ndim != 2:
        return None
    if not np.isin(labels, (0, 1)).all():
        raise DataError(
            f"'{path}' has labels {list(labels.shape)} that are not all 0 or 1; wanted [N], or [N,C]"
        )
    names = arrays.get("class_names", np.arange(labels.shape[1]))
    if len(names) != labels.shape[1]:
        raise DataError(f"'{path}' has {len(names)} class_names for {labels.shape[1]} columns of labels")
    return labels.astype(bool), tuple(map(str, names.tolist()))


def _labels(arrays: dict[str, Array], path: Path) -> list[str]:
    if "labels" in arrays:
        return [str(label) for label in arrays["labels"].tolist()]
    if "ids" in arrays:
        return _folders(arrays["ids"].tolist(), path)
    raise DataError(
        f"'{path}' has no labels; wanted an array `labels`, or for x.npy a file x.labels.npy or x.labels.txt"
    )


def _folders(ids: Sequence[str], path: Path) -> list[str]:
    """The first folder of each path below the folder that all paths share."""
    shared = os.path.commonpath([os.path.dirname(one) or "." for one in ids])  # noqa: PTH120
    below = [os.path.relpath(one, shared) for one in ids]
    if any("/" not in one for one in below):
        raise DataError(
            f"'{path}' has images directly in '{shared}'; wanted one folder per class, or an array `labels`"
        )
    return [one.partition("/")[0] for one in below]
