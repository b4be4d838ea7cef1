"""Images with a map of the same size: class ids for segmentation, depths in 16 bits (docs/spec.md 5.4, 5.6).

    ADE20K:split=TRAIN:root=R      R/images/training/*.jpg, R/annotations/training/*.png; id 0 is ignored
    VOC2012:split=TRAIN:root=R     R/JPEGImages, R/SegmentationClass, R/ImageSets/Segmentation/train.txt
    Cityscapes:split=TRAIN:root=R  R/leftImg8bit/train/CITY/*_leftImg8bit.png, R/gtFine/train/CITY/
                                   *_gtFine_labelTrainIds.png, or *_gtFine_labelIds.png
    NYU:split=TRAIN:root=R         R/nyu_train.txt and R/nyu_test.txt: IMAGE DEPTH FOCAL on each line
    a folder                       images/ and masks/ or depth/: PNG files with the same relative names;
                                   classes.txt may name the classes, one per line, from id 0

Splits are TRAIN and VAL. Ids of 255 are ignored. Depths are integers, in millimetres in NYU; 0 is unknown.

Shapes: h w pixels of an image.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinov3_ref.data.datasets.encoded import EncodedImages, PackedText, require_some
from dinov3_ref.data.datasets.official_form import official_options
from dinov3_ref.data.decoding import SUFFIXES
from dinov3_ref.errors import BrokenImage, DataError, reason_of

IGNORED = 255
MAP_MODES = ("1", "L", "P", "I;16", "I;16B", "I")
SPLITS = {"TRAIN": "train", "VAL": "val"}
ADE20K_FOLDERS = {"TRAIN": "training", "VAL": "validation"}
NYU_LISTS = {"TRAIN": "nyu_train.txt", "VAL": "nyu_test.txt", "TEST": "nyu_test.txt"}
MAPS = {"segmentation": "masks", "depth": "depth"}  # task -> folder beside images/

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
# label id of Cityscapes -> class, in the order of the training ids
CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car",
    27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip

Map = NDArray[np.int32]


class ImagePairs(EncodedImages):
    """Images and their maps: `dataset[i]` is (pair_transform(RGB image, map [h,w]), ()).

    classes: names of the ids; num_classes: 0 where only the maps tell. Raises `BrokenImage` for a map that
    cannot be read or is not of the size of its image.
    """

    pair_transform: Callable[[Image.Image, Map], Any] | None = None

    def __init__(
        self,
        root: Path,
        pairs: Sequence[tuple[str, str]],
        source: str,
        *,
        classes: Sequence[str] = (),
        num_classes: int = 0,
        zero_is_ignored: bool = False,
        new_ids: NDArray[np.int32] | None = None,
    ) -> None:
        require_some(len(pairs), source, "images with a map each")
        self.root, self.source = root, source
        self.paths, self.maps = (PackedText(column) for column in zip(*pairs, strict=True))
        self.classes, self.num_classes = tuple(classes), num_classes or len(classes)
        self.zero_is_ignored, self.new_ids = zero_is_ignored, new_ids

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        return (self.root / self.paths[index]).read_bytes()

    def name(self, index: int) -> str:
        return str(self.root / self.paths[index])

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if self.pair_transform is None:
            return super().__getitem__(index)
        image, values = self.image(index), self.map(index)
        if values.shape != image.size[::-1]:
            raise BrokenImage(
                f"{str(self.root / self.maps[index])!r} has {values.shape[1]}x{values.shape[0]} pixels, its "
                f"image {image.width}x{image.height}; wanted the same"
            )
        return self.pair_transform(image, values), ()

    def map(self, index: int) -> Map:
        """Class ids or depths [h,w]. Raises `BrokenImage`."""
        values = decode_map(self.root / self.maps[index])
        if self.new_ids is not None:
            values = self.new_ids[values.clip(0, len(self.new_ids) - 1)]
        if self.zero_is_ignored:
            values = np.where((values == 0) | (values == IGNORED), IGNORED, values - 1)
        return values

    def found_classes(self) -> int:
        """1 + the largest class id of all maps; reads every one."""
        largest = 0
        for index in range(len(self)):
            ids = self.map(index)
            largest = max(largest, int(ids[ids != IGNORED].max(initial=0)))
        return largest + 1


def decode_map(path: Path) -> Map:
    """The integers of a PNG with one channel [h,w]. Raises `BrokenImage`."""
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                mode = image.mode
                values = np.asarray(image) if mode in MAP_MODES else None
    except Exception as error:  # decoders raise any exception on bad bytes
        raise BrokenImage(f"{str(path)!r} cannot be read as a map: {reason_of(error)}") from error
    if values is None:
        raise BrokenImage(f"{str(path)!r} has mode {mode}; wanted one channel of 8 or 16 bits")
    return values.astype(np.int32)


# ---- layouts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """One published layout: (root, split, text) -> its pairs."""

    task: str
    splits: tuple[str, ...]
    open: Callable[[Path, str, str], ImagePairs]


def open_pairs(text: str, task: str) -> ImagePairs:
    """The dataset that `text` names, for a task of `MAPS`. Raises `DataError`."""
    name, colon, _ = text.partition(":")
    if colon and name in LAYOUTS:
        if LAYOUTS[name].task != task:
            raise DataError(f"{text!r} is for {LAYOUTS[name].task}, not for {task}")
        return open_layout(text)
    if Path(text).is_dir():
        return _folder(Path(text), task)
    known = ", ".join(one for one, layout in LAYOUTS.items() if layout.task == task)
    raise DataError(
        f"{text!r} is no dataset for {task}; wanted a folder with images/ and {MAPS[task]}/, or "
        f"NAME:split=TRAIN:root=FOLDER with NAME of {known}"
    )


def open_layout(text: str) -> ImagePairs:
    """The dataset of a string whose name is one of `LAYOUTS`. Raises `DataError`."""
    layout = LAYOUTS[text.partition(":")[0]]
    root, split = official_options(text, layout.splits)
    return layout.open(Path(root), split, text)


def _ade20k(root: Path, split: str, text: str) -> ImagePairs:
    folder = ADE20K_FOLDERS[split]
    images = _files(root, f"images/{folder}", SUFFIXES)
    pairs = [(one, f"annotations/{folder}/{Path(one).stem}.png") for one in images]
    return ImagePairs(root, _existing(root, pairs), text, num_classes=150, zero_is_ignored=True)


def _voc2012(root: Path, split: str, text: str) -> ImagePairs:
    names = _lines(root / "ImageSets" / "Segmentation" / f"{SPLITS[split]}.txt")
    pairs = [(f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png") for name in names]
    return ImagePairs(root, _existing(root, pairs), text, classes=VOC_CLASSES)


def _cityscapes(root: Path, split: str, text: str) -> ImagePairs:
    end = "_leftImg8bit.png"
    images = [one for one in _files(root, f"leftImg8bit/{SPLITS[split]}", (".png",)) if one.endswith(end)]
    stems = [f"gtFine/{one.partition('/')[2].removesuffix(end)}_gtFine_" for one in images]
    training = all((root / f"{stem}labelTrainIds.png").is_file() for stem in stems)
    kind = "labelTrainIds" if training else "labelIds"
    pairs = [(image, f"{stem}{kind}.png") for image, stem in zip(images, stems, strict=True)]
    new_ids = np.full(256, IGNORED, np.int32)
    new_ids[list(CITYSCAPES)] = np.arange(len(CITYSCAPES))
    return ImagePairs(
        root,
        _existing(root, pairs),
        text,
        classes=tuple(CITYSCAPES.values()),
        new_ids=None if training else new_ids,
    )


def _nyu(root: Path, split: str, text: str) -> ImagePairs:
    path = root / NYU_LISTS[split]
    rows = [line.split() for line in sorted(_lines(path))]
    bad = next((row for row in rows if len(row) < 2), None)
    if bad is not None:
        raise DataError(f"'{path}' has the line {' '.join(bad)!r}; wanted IMAGE DEPTH FOCAL")
    pairs = [(row[0].strip("/"), row[1].strip("/")) for row in rows]
    return ImagePairs(root, _existing(root, pairs), text)


def _folder(root: Path, task: str) -> ImagePairs:
    images = _files(root, "images", SUFFIXES)
    inside = [Path(one).relative_to("images").with_suffix(".png").as_posix() for one in images]
    pairs = [(image, f"{MAPS[task]}/{name}") for image, name in zip(images, inside, strict=True)]
    named = root / "classes.txt"
    classes = _lines(named) if task == "segmentation" and named.is_file() else []
    return ImagePairs(root, _existing(root, pairs), str(root), classes=classes)


def _files(root: Path, folder: str, suffixes: Iterable[str]) -> list[str]:
    """Files below a folder, by their paths from the root, sorted."""
    if not (root / folder).is_dir():
        raise DataError(f"'{root / folder}' is not a folder; wanted the layout of docs/evaluation.md")
    found = (path for path in (root / folder).rglob("*") if path.suffix.lower() in tuple(suffixes))
    return sorted(path.relative_to(root).as_posix() for path in found if not path.name.startswith("."))


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' cannot be read: {reason_of(error)}") from error


def _existing(root: Path, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs, if every map exists. Raises `DataError`."""
    missing = [(image, values) for image, values in pairs if not (root / values).is_file()]
    if missing:
        image, values = missing[0]
        raise DataError(
            f"'{root / image}' has no map '{root / values}'; {len(missing)} of {len(pairs)} are missing"
        )
    return pairs


LAYOUTS = {
    "ADE20K": Layout("segmentation", tuple(ADE20K_FOLDERS), _ade20k),
    "VOC2012": Layout("segmentation", tuple(SPLITS), _voc2012),
    "Cityscapes": Layout("segmentation", tuple(SPLITS), _cityscapes),
    "NYU": Layout("depth", tuple(NYU_LISTS), _nyu),
}
