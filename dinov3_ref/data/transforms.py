"""Image transforms: blur, normalisation, and the transforms of evaluations (docs/spec.md 4.12, 5.2, 6).

torchvision v2 on Pillow images, as in the published recipe: bicubic resizing of tensors gives other pixels.
Shapes: S side of the square crop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dinov3_ref.torchvision_shim import import_torchvision

import_torchvision()
from torchvision.transforms import v2 as v2  # noqa: E402  (after the shim)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BICUBIC = v2.InterpolationMode.BICUBIC

Transform = Callable[[Image.Image], Tensor]


class GaussianBlur(v2.RandomApply):
    """Blur an image with probability **1 - p**: 9x9 kernel, sigma from U(radius_min, radius_max).

    The official class passes 1 - p to `RandomApply`, whose p is the probability to apply
    (facebookresearch/dinov3 #286). The released models were trained that way, so this class does the same;
    `DataAugmentationDINO(blur="nominal")` uses the intended probabilities.
    """

    def __init__(self, *, p: float = 0.5, radius_min: float = 0.1, radius_max: float = 2.0) -> None:
        super().__init__([v2.GaussianBlur(kernel_size=9, sigma=(radius_min, radius_max))], p=1 - p)


def make_normalize_transform(
    mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Transform:
    """Image -> float32 [3,H,W]: divided by 255, minus mean, divided by std."""
    return v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def make_classification_eval_transform(
    *,
    crop_size: int = 224,
    resize_size: int | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Transform:
    """Resize the short side to `resize_size` (default int(256·crop/224)), centre crop; float32 [3,S,S]."""
    side = int(256 * crop_size / 224) if resize_size is None else resize_size
    steps: list[Any] = [v2.Resize(side, interpolation=BICUBIC), v2.CenterCrop(crop_size)]
    return v2.Compose([*steps, make_normalize_transform(mean, std)])


def make_classification_train_transform(
    *,
    crop_size: int = 224,
    hflip_prob: float = 0.5,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Transform:
    """RandomResizedCrop (bicubic, torchvision's default scale) and horizontal flip; float32 [3,S,S]."""
    steps: list[Any] = [v2.RandomResizedCrop(crop_size, interpolation=BICUBIC)]
    return v2.Compose([*steps, v2.RandomHorizontalFlip(hflip_prob), make_normalize_transform(mean, std)])
