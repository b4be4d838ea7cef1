"""Calibration images of an 8-bit recipe: the user's own, or crops of the shipped photographs.

Shapes: B images, H W input pixels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dinodeploy.arrays import ByteArray, FloatArray
from dinodeploy.errors import MisuseError
from dinodeploy.images.batches import batches_of_one_size
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.decode import decode_ahead, default_decoders
from dinodeploy.sources.folders import list_images
from exporters.bundle.golden import CASES, load_photo

BATCH_PIXELS = 8 * 256 * 256  # per forward pass
FEW = 32  # images; with fewer, ranges are a guess
# left, top, right, bottom
SHIPPED_CROPS = ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.6, 0.7), (0.35, 0.25, 1.0, 1.0))


@dataclass(frozen=True)
class Calibration:
    """Source of calibration images. The same images and seed give the same engine, byte for byte."""

    folder: Path | None = None  # None: the shipped photographs
    limit: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= 4096:
            raise MisuseError(f"--calibration-images {self.limit}; wanted 1 to 4096, usually 32 to 512")


def calibration_pixels(
    calibration: Calibration, preprocess: Preprocess
) -> tuple[list[FloatArray], tuple[str, ...]]:
    """Normalised pixels [3,H,W] of each image, and notes for the user.

    If a folder holds more than the limit, the seed draws from it. Unreadable images are left out, with a
    note. Raises MisuseError if no image is left.
    """
    if calibration.folder is None:
        note = "calibrated on six shipped photographs; give --calibration DIR with images of your own"
        return [preprocess(open_image(crop)) for crop in _shipped_crops()][: calibration.limit], (note,)
    ids = list_images([calibration.folder])
    if len(ids) > calibration.limit:
        ids = sorted(random.Random(calibration.seed).sample(ids, calibration.limit))
    decoded = decode_ahead(ids, preprocess, default_decoders(), ahead=len(ids))
    pixels = [item.pixels for item in decoded if item.pixels is not None]
    if not pixels:
        raise MisuseError(f"{calibration.folder}: none of {len(ids)} images can be read; give other images")
    return pixels, tuple(_notes(calibration.folder, len(pixels), len(ids) - len(pixels)))


def _notes(folder: Path, count: int, broken: int) -> Iterator[str]:
    if broken:
        yield f"{broken} of {count + broken} images in {folder} cannot be read: left out of calibration"
    if count < FEW:
        yield f"calibrated on {count} images; {FEW} or more give steadier ranges"


def _shipped_crops() -> Iterator[ByteArray]:
    """Crops [H,W,3] of the shipped photographs."""
    for name in dict.fromkeys(name for _, names, _ in CASES for name in names):
        photo = load_photo(name)
        height, width = photo.shape[:2]
        for left, top, right, bottom in SHIPPED_CROPS:
            yield photo[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]


def in_batches(pixels: Sequence[FloatArray]) -> Iterator[Tensor]:
    """Consecutive images of one size as [B,3,H,W], with at most `BATCH_PIXELS` pixels in a batch."""
    largest = max(array.shape[1] * array.shape[2] for array in pixels)
    for batch in batches_of_one_size(pixels, max(1, BATCH_PIXELS // largest)):
        yield torch.from_numpy(np.stack(batch))
