"""DataAugmentationDINO: one image -> two global and several local crops (docs/spec.md 4.12).

    geometry:   RandomResizedCrop, bicubic, aspect 3/4..4/3, and a horizontal flip
    distortion: colour (jitter p 0.8, grey p 0.2) -> blur -> solarize (second global crop only)
    output:     float32, divided by 255, normalised

Masks are made per batch, in `collate.py` (docs/spec.md 8.1, S53).
Shapes: S global, s local, G Gram crop side, n number of local crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from dinov3_ref.data.transforms import (
    BICUBIC,
    IMAGENET_MEAN,
    IMAGENET_STD,
    GaussianBlur,
    make_normalize_transform,
    v2,
)
from dinov3_ref.errors import ConfigError

# Blur probability of (first global, second global, local) crops. "published": what the released models were
# trained with. "nominal": the intended values, which the official code turns into 1 - p (see GaussianBlur).
BLUR_PROBABILITIES: dict[str, tuple[float, float, float]] = {
    "published": (0.0, 0.9, 0.5),
    "nominal": (1.0, 0.1, 0.5),
}
COLOR_JITTER = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
COLOR_PROBABILITY = 0.8
GRAYSCALE_PROBABILITY = 0.2
SOLARIZE_THRESHOLD = 128  # of 255, before the conversion to floats
SOLARIZE_PROBABILITY = 0.2

Views = dict[str, Any]


class DataAugmentationDINO:
    """The crops of one image. Parameters as in the official class, except the last three.

    global_crops_scale, local_crops_scale: range of the crop area as a share of the image area, (low, high).
    gram_teacher_crops_size: side of an additional version of each global crop for the Gram teacher;
        gram_teacher_no_distortions: without colour, blur and solarize.
    teacher_no_color_jitter: `global_crops_teacher` are the global crops without distortions.
    local_crops_subset_of_global_crops: local crops are windows of the global ones, on the patch grid.
    share_color_jitter: draw colours once per image instead of once per crop.
    color_jitter: strength of brightness, contrast, saturation and hue.

    All random numbers come from torch's global generator. Raises `ConfigError` for sizes that do not fit.
    """

    def __init__(
        self,
        global_crops_scale: Sequence[float],
        local_crops_scale: Sequence[float],
        local_crops_number: int,
        global_crops_size: int = 224,
        local_crops_size: int = 96,
        gram_teacher_crops_size: int | None = None,
        gram_teacher_no_distortions: bool = False,
        teacher_no_color_jitter: bool = False,
        local_crops_subset_of_global_crops: bool = False,
        patch_size: int = 16,
        share_color_jitter: bool = False,
        horizontal_flips: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        blur: Literal["published", "nominal"] = "published",
        color_jitter: Sequence[float] = COLOR_JITTER,
        grayscale_probability: float = GRAYSCALE_PROBABILITY,
    ) -> None:
        if blur not in BLUR_PROBABILITIES:
            raise ConfigError(f"blur is {blur!r}; wanted one of {', '.join(BLUR_PROBABILITIES)}")
        if local_crops_subset_of_global_crops and local_crops_size > global_crops_size:
            raise ConfigError(
                f"local crops of {local_crops_size} px cannot be windows of global crops of "
                f"{global_crops_size} px; make them smaller or unset local_crops_subset_of_global_crops"
            )
        self.local_crops_number = local_crops_number
        self.global_crops_size = global_crops_size
        self.local_crops_size = local_crops_size
        self.gram_teacher_crops_size = gram_teacher_crops_size
        self.gram_teacher_no_distortions = gram_teacher_no_distortions
        self.teacher_no_color_jitter = teacher_no_color_jitter
        self.local_crops_subset_of_global_crops = local_crops_subset_of_global_crops
        self.patch_size = patch_size

        base_size = max(global_crops_size, gram_teacher_crops_size or 0)
        flip = 0.5 if horizontal_flips else 0.0
        self.geometric_augmentation_global = _geometry(base_size, global_crops_scale, flip)
        self.geometric_augmentation_local = _geometry(local_crops_size, local_crops_scale, flip)

        colour = _colour(color_jitter, grayscale_probability)
        self.shared_colour = colour if share_color_jitter else nn.Identity()
        per_crop = nn.Identity() if share_color_jitter else colour
        blur_global1, blur_global2, blur_local = (GaussianBlur(p=1 - p) for p in BLUR_PROBABILITIES[blur])
        solarize = v2.RandomSolarize(SOLARIZE_THRESHOLD, p=SOLARIZE_PROBABILITY)
        self.normalize = make_normalize_transform(mean, std)
        self.global_transfo1 = v2.Compose([per_crop, blur_global1, self.normalize])
        self.global_transfo2 = v2.Compose([per_crop, blur_global2, solarize, self.normalize])
        self.local_transfo = v2.Compose([per_crop, blur_local, self.normalize])
        self.resize_to_global = v2.Resize(global_crops_size, interpolation=BICUBIC)
        self.resize_to_gram = (
            v2.Resize(gram_teacher_crops_size, interpolation=BICUBIC) if gram_teacher_crops_size else None
        )

    def __call__(self, image: Image.Image) -> Views:
        """RGB image of any size -> crops, float32.

        `global_crops` 2 x [3,S,S], `global_crops_teacher` the same or without distortions, `local_crops`
        n x [3,s,s], `gram_teacher_crops` 2 x [3,G,G] if configured, `offsets` n x (top, left) of local crops
        that are windows, else (), `weak_flag` True.
        """
        image = self.shared_colour(image)
        bases = [self.geometric_augmentation_global(image) for _ in range(2)]
        views: Views = {"weak_flag": True}
        distortions = (self.global_transfo1, self.global_transfo2)
        pairs = [self._global_and_gram(base, d) for base, d in zip(bases, distortions, strict=True)]
        views["global_crops"] = [crop for crop, _ in pairs]
        views["global_crops_teacher"] = (
            [self.normalize(self._at_global_size(base)) for base in bases]
            if self.teacher_no_color_jitter
            else views["global_crops"]
        )
        if self.resize_to_gram is not None:
            views["gram_teacher_crops"] = [gram for _, gram in pairs]
        views["local_crops"], views["offsets"] = self._local_crops(image, bases)
        return views

    def _global_and_gram(self, base: Image.Image, distort: v2.Compose) -> tuple[Tensor, Tensor | None]:
        """The global crop [3,S,S] and the Gram teacher's version of it [3,G,G], or None."""
        if self.resize_to_gram is None:
            return distort(base), None
        if self.gram_teacher_no_distortions:
            return distort(self._at_global_size(base)), self.normalize(self.resize_to_gram(base))
        distorted = distort(base)  # one distortion for both; sizes change after normalisation
        return self.resize_to_global(distorted), self.resize_to_gram(distorted)

    def _at_global_size(self, base: Image.Image) -> Image.Image:
        return base if base.width == self.global_crops_size else self.resize_to_global(base)

    def _local_crops(
        self, image: Image.Image, bases: list[Image.Image]
    ) -> tuple[list[Tensor], Sequence[tuple[int, int]]]:
        """Local crops n x [3,s,s] and their offsets n x (top, left) in the global crops, or ()."""
        n, side = self.local_crops_number, self.local_crops_size
        if not self.local_crops_subset_of_global_crops:
            crops = [self.local_transfo(self.geometric_augmentation_local(image)) for _ in range(n)]
            return crops, ()
        parents = [self._at_global_size(bases[0])] * (n // 2) + [self._at_global_size(bases[1])] * (
            n - n // 2
        )
        places = (self.global_crops_size - side) // self.patch_size + 1
        offsets = [(top, left) for top, left in (torch.randint(places, (n, 2)) * self.patch_size).tolist()]
        windows = [
            self.local_transfo(parent)[:, top : top + side, left : left + side]
            for parent, (top, left) in zip(parents, offsets, strict=True)
        ]
        return windows, offsets


def _geometry(size: int, scale: Sequence[float], flip: float) -> v2.Compose:
    crop = v2.RandomResizedCrop(size, scale=tuple(scale), interpolation=BICUBIC)
    return v2.Compose([crop, v2.RandomHorizontalFlip(flip)])


def _colour(strengths: Sequence[float], grey: float) -> v2.Compose:
    brightness, contrast, saturation, hue = strengths
    jitter = v2.ColorJitter(brightness, contrast, saturation, hue)
    return v2.Compose([v2.RandomApply([jitter], p=COLOR_PROBABILITY), v2.RandomGrayscale(p=grey)])
