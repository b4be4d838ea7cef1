"""Open a dataset from a string, as in configurations and on command lines (docs/spec.md 4.14).

    photos/                               a folder             shards/train-{000..146}.tar    tar shards
    train.txt, train.tsv                  a list               data/*.parquet, data/*.arrow   tables
    ImageFolder:root=photos:split=train   the official form: class, then key=value
    ImageNet:split=TRAIN:root=imagenet    an official dataset, as folders of images
    NYU:split=TRAIN:root=nyu              the images of a dataset with maps (`pairs.py`)

In the official form a value may contain `:` and `=`, but no `:key=` of the class.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinov3_ref.data.datasets.encoded import EncodedImages
from dinov3_ref.data.datasets.folder import ImageFolder, ImageList
from dinov3_ref.data.datasets.official_form import official_options
from dinov3_ref.data.datasets.pairs import LAYOUTS, open_layout
from dinov3_ref.data.datasets.table import ImageTable
from dinov3_ref.data.datasets.tar import TarShards
from dinov3_ref.errors import DataError

# name -> (class, keys of the official form; the first is the path)
DATASETS: dict[str, tuple[Callable[..., EncodedImages], tuple[str, ...]]] = {
    "ImageFolder": (ImageFolder, ("root", "split")),
    "ImageList": (ImageList, ("path",)),
    "TarShards": (TarShards, ("shards",)),
    "ImageTable": (ImageTable, ("tables", "image", "label", "cache")),
}
# Official names -> folder of each split, below the root (docs/spec.md 4.14). `extra`, the official code's own
# tables of files, is not needed: the folders are listed.
OFFICIAL: dict[str, dict[str, str]] = {
    "ImageNet": {"TRAIN": "train", "VAL": "val", "TEST": "test"},
    "ImageNet22k": {"": ""},
    "ADE20K": {"TRAIN": "images/training", "VAL": "images/validation"},
    "CocoCaptions": {"TRAIN": "train2017", "VAL": "val2017"},
}
CLASSES = ("ImageNet", "ImageNet22k")  # have a folder for each class
BY_SUFFIX = {
    ".txt": "ImageList",
    ".tsv": "ImageList",
    ".tar": "TarShards",
    ".parquet": "ImageTable",
    ".arrow": "ImageTable",
}


def make_dataset(
    text: str, *, labelled: bool = False, transform: Callable[[Any], Any] | None = None
) -> EncodedImages:
    """The dataset that `text` names. Raises `DataError` for unknown text, and for missing labels."""
    name, colon, rest = text.partition(":")
    if colon and name in DATASETS:
        build, keys = DATASETS[name]
        return build(**_parse(rest, keys, text), labelled=labelled, transform=transform)
    if name in OFFICIAL or name in LAYOUTS:
        if labelled and name not in CLASSES:
            raise DataError(f"{text!r} has no classes; labelled images need one of {', '.join(CLASSES)}")
        if name in OFFICIAL:
            root, split = official_options(text, OFFICIAL[name])
            return ImageFolder(Path(root, OFFICIAL[name][split]), labelled=labelled, transform=transform)
        pairs = open_layout(text)
        pairs.transform = transform
        return pairs
    kind = "ImageFolder" if Path(text).is_dir() else BY_SUFFIX.get(Path(text).suffix.lower())
    if kind is None:
        raise DataError(
            f"{text!r} is not a dataset; wanted a folder, a file ending in {' '.join(BY_SUFFIX)}, or "
            f"NAME:key=value with NAME of {', '.join(dict.fromkeys([*DATASETS, *OFFICIAL, *LAYOUTS]))}"
        )
    build, keys = DATASETS[kind]
    return build(text, labelled=labelled, transform=transform)


def _parse(rest: str, keys: tuple[str, ...], text: str) -> dict[str, str]:
    pieces = re.split(rf":(?=(?:{'|'.join(keys)})=)", rest)
    options = dict(piece.partition("=")[::2] for piece in pieces)
    if set(options) - set(keys) or keys[0] not in options:
        raise DataError(
            f"{text!r} has the keys {', '.join(options)}; wanted {keys[0]}, optionally {', '.join(keys[1:])}"
        )
    return options
