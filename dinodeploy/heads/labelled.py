"""Labelled pictures on disk, in the two layouts that `train-head` reads.

classify   FOLDER/<class>/…/picture       a sub-folder for every class, named after it
segment    FOLDER/images/…/picture        and a mask of the same relative name without suffix
           FOLDER/masks/…/picture.png     class ids in 8 or 16 bits, grey or palette; 255 is ignored
           FOLDER/classes.txt             optional: a name a line, the first for id 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.images.open import MAX_PIXELS
from dinodeploy.images.paths import list_images

IGNORE = 255
MASK_MODES = ("1", "L", "P", "I;16")
MAX_CLASSES = 255


@dataclass(frozen=True)
class Classified:
    """Pictures with a class each."""

    ids: tuple[str, ...]
    labels: NDArray[np.int64]  # [N]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Segmented:
    """Pictures with a mask each. `names` is empty where no classes.txt is there."""

    ids: tuple[str, ...]
    masks: tuple[Path, ...]
    names: tuple[str, ...]


def read_classified(folder: Path, classes: Sequence[str] = ()) -> Classified:
    """Pictures of every sub-folder. With `classes`, those of a test set: no other class may appear.

    Raises MisuseError for less than two classes, and for a class without a picture.
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
            raise MisuseError(f"{path} is none of the classes trained on: {', '.join(names)}")
        pictures = list_images([path])
        ids += pictures
        labels += [names.index(path.name)] * len(pictures)
    return Classified(tuple(ids), np.array(labels, np.int64), names)


def read_segmented(folder: Path) -> Segmented:
    """Pictures and their masks. Raises MisuseError for a picture without a mask."""
    images, masks = folder / "images", folder / "masks"
    for path in (images, masks):
        if not path.is_dir():
            raise MisuseError(f"{path} is no folder; wanted {folder}/images and {folder}/masks")
    ids = list_images([images])
    by_stem = {path.relative_to(masks).with_suffix("").as_posix(): path for path in masks.rglob("*.png")}
    found = []
    for id_ in ids:
        stem = Path(id_).relative_to(images).with_suffix("").as_posix()
        if stem not in by_stem:
            raise MisuseError(f"{id_} has no mask; wanted {masks}/{stem}.png")
        found.append(by_stem[stem])
    return Segmented(tuple(ids), tuple(found), _class_names(folder / "classes.txt"))


def read_mask(path: Path) -> NDArray[np.int64]:
    """Class ids [h,w] of a mask. Raises ImageError for what is no picture of ids."""
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
    except Exception as error:  # Pillow's decoders raise anything at all on foreign bytes
        raise ImageError(f"'{path}': the mask cannot be read: {error}") from error


def _sub_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MisuseError(f"{folder} is no folder; wanted a folder with a sub-folder for every class")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(set(names)) < len(names) or len(names) > MAX_CLASSES:
        raise MisuseError(f"{path} holds {len(names)} names; wanted different ones, at most {MAX_CLASSES}")
    return names
