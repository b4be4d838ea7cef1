"""Training crops and test images of linear depth, as published for NYU (docs/spec.md 5.6).

Training: the border of NYU is cut, then rotation, flip, crop and colour jitter. Every draw is from torch's
generator, which `SeededSamples` seeds by the position of the sample.

Shapes: h w pixels of an image, S T height and width of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinov3_ref.data.datasets.pairs import Map
from dinov3_ref.data.transforms import v2
from dinov3_ref.errors import BrokenImage
from dinov3_ref.eval.dense.segmentation_crops import normalised, uniform

NYU_BORDER = (43 / 640, 45 / 480, 608 / 640, 472 / 480)  # left, top, right, bottom of what is kept
ROTATION = 2.5  # degrees, either way, for half of the images
GAMMA = (0.9, 1.1)
BRIGHTNESS = (0.75, 1.25)
COLOUR = (0.9, 1.1)  # factor of each channel
JITTER = 0.5  # probability of the three


@dataclass(frozen=True)
class TrainingCrops:
    """Image and depths [h,w] in units -> pixels fp32 [3,S,T] and metres fp32 [S,T].

    unit: integers per metre. border: whether to cut the border of NYU.
    """

    crop: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    unit: float = 1000.0
    border: bool = True

    def __call__(self, image: Image.Image, depth: Map) -> tuple[Tensor, Tensor]:
        x, y = tensors(image, depth, self.unit)
        if self.border:
            x, y = without_border(x), without_border(y)
        if min(x.shape[1] - self.crop[0], x.shape[2] - self.crop[1]) < 0:
            raise BrokenImage(
                f"an image has {x.shape[1]}x{x.shape[2]} pixels; the training crop is "
                f"{self.crop[0]}x{self.crop[1]}: use a smaller --crop-size"
            )
        if uniform(0, 1) < 0.5:
            angle = uniform(-ROTATION, ROTATION)
            x = v2.functional.rotate(x, angle, v2.InterpolationMode.BILINEAR)
            y = v2.functional.rotate(y, angle, v2.InterpolationMode.NEAREST)
        if uniform(0, 1) < 0.5:
            x, y = x.flip(-1), y.flip(-1)
        top, left = (
            int(torch.randint(length - own + 1, ()))
            for length, own in zip(x.shape[1:], self.crop, strict=True)
        )
        place = (slice(None), slice(top, top + self.crop[0]), slice(left, left + self.crop[1]))
        x = jittered(x[place]) if uniform(0, 1) < JITTER else x[place]
        return normalised(x, self.mean, self.std), y[place][0]


@dataclass(frozen=True)
class TestImages:
    """Image and depths in units -> pixels fp32 [3,h,w], resized where a size is given, and metres [h,w]."""

    __test__ = False

    mean: Sequence[float]
    std: Sequence[float]
    unit: float = 1000.0
    size: tuple[int, int] | None = None  # height, width

    def __call__(self, image: Image.Image, depth: Map) -> tuple[Tensor, Tensor]:
        if self.size is not None:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        x, y = tensors(image, depth, self.unit)
        return normalised(x, self.mean, self.std), y[0]


def tensors(image: Image.Image, depth: Map, unit: float) -> tuple[Tensor, Tensor]:
    """Grey levels fp32 [3,h,w] and metres fp32 [1,h,w]."""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    return x, torch.from_numpy(depth.astype(np.float32) / unit)[None]


def without_border(x: Tensor) -> Tensor:
    """[C,h,w] without the white border of NYU's images."""
    height, width = x.shape[1:]
    left, top, right, bottom = NYU_BORDER
    return x[:, int(top * height) : int(bottom * height), int(left * width) : int(right * width)]


def jittered(x_3hw: Tensor) -> Tensor:
    """Gamma, brightness and a factor of each channel, on grey levels 0..255."""
    x = x_3hw ** uniform(*GAMMA) * uniform(*BRIGHTNESS)
    return (x * torch.tensor([uniform(*COLOUR) for _ in range(3)])[:, None, None]).clamp(0, 255)
