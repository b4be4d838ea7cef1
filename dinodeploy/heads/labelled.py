"""Labelled images on disk, in the two layouts that `train-head` reads, and their seeded split.

classify   FOLDER/<class>/…/image.jpg     one sub-folder per class, named after the class
segment    FOLDER/images/…/image.jpg      and a mask with the same relative name, without the suffix
           FOLDER/masks/…/image.png       class ids in 8 or 16 bits, grey or palette; 255 is ignored
           FOLDER/classes.txt             optional: one name per line, starting with id 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dinodeploy.arrays import IndexArray
from dinodeploy.errors import ImageError, MisuseError, reason_of
from dinodeploy.images.limits import MAX_PIXELS
from dinodeploy.sources.folders import list_images

MASK_MODES = ("1", "L", "P", "I;16")
MAX_CLASSES = 255
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.2  # of what the test part leaves


@dataclass(frozen=True)
class Classified:
    """Images with one class each."""

    ids: tuple[str, ...]
    labels: IndexArray  # [N]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Segmented:
    """Images with one mask each. `names` is empty where there is no classes.txt."""

    ids: tuple[str, ...]
    masks: tuple[Path, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Row numbers; each row is in one part only."""

    train: IndexArray
    validation: IndexArray
    test: IndexArray


def read_classified(folder: Path, classes: Sequence[str] = ()) -> Classified:
    """Images of every class folder. With `classes`, the images of a test set: it may have no other class.

    Raises MisuseError for fewer than two classes, and for a class without images.
    """
    folders = _sub_folders(folder)
    names = tuple(classes) or tuple(path.name for path in folders)
    if len(names) < 2:
        raise MisuseError(
            f"{folder} holds {len(folders)} class folders; wanted at least two, each named after its class"
        )
    ids: list[str] = []
    labels: list[int] = []
    for path in folders:
        if path.name not in names:
            raise MisuseError(f"{path} is not a class of the training data; wanted {', '.join(names)}")
        images = list_images([path])
        ids += images
        labels += [names.index(path.name)] * len(images)
    return Classified(tuple(ids), np.array(labels, np.int64), names)


def read_segmented(folder: Path) -> Segmented:
    """Images and their masks. Raises MisuseError for an image without a mask."""
    images, masks = folder / "images", folder / "masks"
    for path in (images, masks):
        if not path.is_dir():
            raise MisuseError(f"{path} is not a folder; wanted {folder}/images and {folder}/masks")
    ids = list_images([images])
    by_stem = {path.relative_to(masks).with_suffix("").as_posix(): path for path in masks.rglob("*.png")}
    found = []
    for id_ in ids:
        stem = Path(id_).relative_to(images).with_suffix("").as_posix()
        if stem not in by_stem:
            raise MisuseError(f"{id_} has no mask; wanted {masks}/{stem}.png")
        found.append(by_stem[stem])
    return Segmented(tuple(ids), tuple(found), _class_names(folder / "classes.txt"))


def read_mask(path: Path) -> IndexArray:
    """Class ids [h,w] of a mask file. Raises ImageError for a file that holds no class ids."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in MASK_MODES or image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"'{path}': a mask of mode {image.mode}, {image.width}x{image.height}; wanted class ids "
                    "in one channel: grey or palette"
                )
            return np.asarray(image).astype(np.int64)
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise any exception on foreign bytes
        raise ImageError(f"'{path}': the mask cannot be read: {reason_of(error)}") from error


def split_by_class(labels: IndexArray, classes: tuple[str, ...], seed: int, *, test: bool = True) -> Split:
    """A random split with every class in every part; without `test`, that part stays empty.

    Raises MisuseError for a class with too few images.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[IndexArray]] = [[], [], []]
    least = 3 if test else 2
    for index, name in enumerate(classes):
        rows = rng.permutation(np.flatnonzero(labels == index))
        if len(rows) < least:
            raise MisuseError(
                f"class {name!r} has {len(rows)} readable images; wanted at least {least}, for training, "
                f"validation{' and test' if test else ''}"
            )
        for part, piece in zip(parts, _cut(rows, test), strict=True):
            part.append(piece)
    return Split(*(np.sort(np.concatenate(part)) for part in parts))


def split_at_random(count: int, seed: int) -> Split:
    """A random split of `count` images. Raises MisuseError for fewer than three."""
    if count < 3:
        raise MisuseError(f"{count} readable images; wanted at least 3, for training, validation and test")
    rows = np.random.default_rng(seed).permutation(count).astype(np.int64)
    return Split(*(np.sort(piece) for piece in _cut(rows, True)))


def _cut(rows: IndexArray, test: bool) -> tuple[IndexArray, IndexArray, IndexArray]:
    """(train, validation, test); only `test` may be empty, where it is not wanted."""
    tests = max(1, round(TEST_SHARE * len(rows))) if test else 0
    validation = max(1, round(VALIDATION_SHARE * (len(rows) - tests)))
    return rows[tests + validation :], rows[tests : tests + validation], rows[:tests]


def _sub_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MisuseError(f"{folder} is not a folder; wanted a folder with one sub-folder per class")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(set(names)) < len(names) or len(names) > MAX_CLASSES:
        raise MisuseError(f"{path} holds {len(names)} names; wanted different names, at most {MAX_CLASSES}")
    return names
