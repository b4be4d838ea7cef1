"""Training crops and test images of linear segmentation, as published (docs/spec.md 5.4).

Training: random size, crop, flip, photometric distortion, normalisation, padding. Every draw is from torch's
generator, which `SeededSamples` seeds by the position of the sample.

Shapes: S side of a crop, h w pixels of an image, H W of the resized one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dinov3_ref.data.datasets.pairs import IGNORED, Map
from dinov3_ref.data.transforms import v2

RATIOS = (0.5, 2.0)  # of the random size
FLIP = 0.5
MOST_OF_A_CLASS = 0.75  # a crop with more of one class is drawn again,
TRIES = 10  # as often as this
BRIGHTNESS = 32.0  # grey levels, of 255
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE = 0.5  # turns of the colour circle, either way


@dataclass(frozen=True)
class TrainingCrops:
    """Image and class ids [h,w] -> pixels fp32 [3,S,S] and ids long [S,S].

    side: the short side of the image before the random ratio. distort: the photometric distortion.
    """

    side: int
    crop: int
    mean: Sequence[float]
    std: Sequence[float]
    distort: bool = True

    def __call__(self, image: Image.Image, ids: Map) -> tuple[Tensor, Tensor]:
        size = scaled_size(image.size, int(self.side * uniform(*RATIOS)))
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        labels = np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
        top, left = self._corner(labels)
        pixels = pixels[top : top + self.crop, left : left + self.crop]
        labels = labels[top : top + self.crop, left : left + self.crop]
        if uniform(0, 1) < FLIP:
            pixels, labels = pixels[:, ::-1], labels[:, ::-1]
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        x = normalised(distorted(x) if self.distort else x, self.mean, self.std)
        y = torch.from_numpy(labels.astype(np.int64))
        margin = (0, self.crop - y.shape[1], 0, self.crop - y.shape[0])
        return F.pad(x, margin), F.pad(y, margin, value=IGNORED)

    def _corner(self, labels: Map) -> tuple[int, int]:
        """Top and left of a crop that is not almost of one class."""
        corner = self._draw(labels.shape)
        for _ in range(TRIES):
            top, left = corner
            part = labels[top : top + self.crop, left : left + self.crop]
            counts = np.bincount(part[part != IGNORED])
            if np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < MOST_OF_A_CLASS:
                break
            corner = self._draw(labels.shape)
        return corner

    def _draw(self, shape: tuple[int, ...]) -> tuple[int, int]:
        top, left = (int(torch.randint(max(0, length - self.crop) + 1, ())) for length in shape)
        return top, left


@dataclass(frozen=True)
class TestImages:
    """Image and class ids -> pixels fp32 [3,H,W] with a short side of `side`, and ids long [h,w]."""

    __test__ = False

    side: int
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, image: Image.Image, ids: Map) -> tuple[Tensor, Tensor]:
        resized = image.resize(scaled_size(image.size, self.side), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
        return normalised(x, self.mean, self.std), torch.from_numpy(ids.astype(np.int64))


def scaled_size(size: tuple[int, int], short: int) -> tuple[int, int]:
    """(width, height) with a short side of `short`; the other is rounded."""
    width, height = size
    if height > width:
        return short, int(short * height / width + 0.5)
    return int(short * width / height + 0.5), short


def normalised(x_3hw: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Grey levels 0..255 -> normalised fp32."""
    return v2.functional.normalize(x_3hw.float() / 255, list(mean), list(std))


def distorted(x_3hw: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, each with probability one half; uint8 -> uint8 [3,h,w].

    Contrast comes second or last. Each step rounds down to whole grey levels.
    """
    contrast = _step(lambda x: _levels(x.float() * uniform(*CONTRAST)))
    early = uniform(0, 1) < 0.5
    x = _step(lambda x: _levels(x.float() + uniform(-BRIGHTNESS, BRIGHTNESS)))(x_3hw)
    if early:
        x = contrast(x)
    x = _step(lambda x: v2.functional.adjust_saturation(x, uniform(*SATURATION)))(x)
    x = _step(lambda x: v2.functional.adjust_hue(x, uniform(-HUE, HUE)))(x)
    return x if early else contrast(x)


def _step(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`change` with probability one half."""
    return lambda x: change(x) if uniform(0, 1) < 0.5 else x


def _levels(x: Tensor) -> Tensor:
    return x.clamp(0, 255).to(torch.uint8)


def uniform(low: float, high: float) -> float:
    """A number from torch's generator."""
    return low + (high - low) * float(torch.rand(()))


def collate_pairs(samples: Sequence[Any]) -> dict[str, Any]:
    """`images` [B,3,S,S] and `maps` [B,S,S] of readable samples; `broken` and `drawn` count the rest."""
    read = [sample.views for sample in samples if sample.views is not None]
    account = {"drawn": len(samples), "broken": [line for sample in samples for line in sample.broken]}
    if not read:
        return account
    images, maps = zip(*read, strict=True)
    return account | {"images": torch.stack(images), "maps": torch.stack(maps)}
