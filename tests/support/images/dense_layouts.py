"""Images with class ids or depths in the published layouts: photographs side by side, a slope of depths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.images.photographs import photograph

SIZE = (80, 64)  # width, height
KINDS = ("retina", "coffee", "chelsea")


def scene(number: int) -> tuple[Image.Image, np.ndarray]:
    """Two of three photographs side by side, and the place of each in `KINDS` [64,80]."""
    small = [np.asarray(photograph(name).resize(SIZE)) for name in KINDS]
    left, right = number % 3, (number + 1) % 3
    cut = 30 + 7 * (number % 4)
    pixels = np.concatenate([small[left][:, :cut], small[right][:, cut:]], axis=1)
    ids = np.full(SIZE[::-1], left, np.uint8)
    ids[:, cut:] = right
    return Image.fromarray(pixels), ids


def _save(root: Path, image: Image.Image, name: str, ids: np.ndarray, map_name: str) -> None:
    for one in (name, map_name):
        (root / one).parent.mkdir(parents=True, exist_ok=True)
    image.save(root / name, quality=95)
    Image.fromarray(ids).save(root / map_name)


def write_ade20k(root: Path, count: int = 6) -> Path:
    """Ids 1 to 3; the upper rows are 0, which is ignored."""
    for split, folder in (("train", "training"), ("val", "validation")):
        for number in range(count):
            image, ids = scene(number)
            ids = ids + 1
            ids[:4] = 0
            name = f"ADE_{split}_{number + 1:08d}"
            _save(root, image, f"images/{folder}/{name}.jpg", ids, f"annotations/{folder}/{name}.png")
    return root


def write_voc2012(root: Path, count: int = 3) -> Path:
    for number in range(count):
        image, ids = scene(number)
        name = f"2007_{number:06d}"
        _save(root, image, f"JPEGImages/{name}.jpg", ids, f"SegmentationClass/{name}.png")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000002\n2007_000000\n")
    (lists / "val.txt").write_text("2007_000001\n")
    return root


def write_cityscapes(root: Path) -> Path:
    """Raw label ids: road 7, sky 23, car 26."""
    for number in range(2):
        image, ids = scene(number)
        stem = f"ulm/ulm_{number:06d}_000019"
        raw = np.array([7, 23, 26], np.uint8)[ids]
        raw[0] = 1  # ego vehicle: no class
        target = f"gtFine/val/{stem}_gtFine_labelIds.png"
        _save(root, image, f"leftImg8bit/val/{stem}_leftImg8bit.png", raw, target)
    return root


def slope(number: int) -> np.ndarray:
    """Millimetres [64,80]: 1 m at the left to 3 m, more for later numbers; the upper rows are unknown."""
    row = np.linspace(1000, 3000 + 100 * number, SIZE[0]).round().astype(np.uint16)
    depth = np.tile(row, (SIZE[1], 1))
    depth[:3] = 0
    return depth


def write_nyu(root: Path, count: int = 4) -> Path:
    """A depth at each column of an image whose brightness tells it."""
    lines = []
    for number in range(count):
        depth = slope(number)
        grey = np.clip(depth / 16, 0, 255).astype(np.uint8)
        image = Image.fromarray(np.stack([grey, 255 - grey, grey // 2], axis=-1))
        name, target = f"bath/rgb_{number:05d}.jpg", f"bath/sync_depth_{number:05d}.png"
        _save(root, image, name, depth, target)
        lines.append(f"/{name} {target} 518.8579\n")
    (root / "nyu_train.txt").write_text("".join(reversed(lines)))
    (root / "nyu_test.txt").write_text("".join(lines[:2]))
    return root
