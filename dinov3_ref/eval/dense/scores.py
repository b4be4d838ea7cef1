"""Scores of segmentation and of depth (docs/spec.md 5.4, 5.6).

    mIoU   mean over the classes of intersection / union, pixels of all images together
    mAcc   mean over the classes of the share of their pixels that are right
    aAcc   share of all pixels that are right
    a1..a3 share of pixels with max(depth / truth, truth / depth) below 1.25, 1.25², 1.25³
    others errors of depth: of each image, then averaged over the images

Shapes: h w pixels, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dinov3_ref.data.datasets.pairs import IGNORED
from dinov3_ref.errors import DataError

CROPS = ("none", "eigen", "garg")
_EIGEN = (45 / 480, 471 / 480, 41 / 640, 601 / 640)  # top, bottom, left, right (arXiv:1406.2283)
_GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)  # arXiv:1603.04992


class Confusion:
    """Counts of pixels by true and by predicted class, over all images."""

    def __init__(self, classes: int) -> None:
        self.counts_KK = torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, chosen_hw: Tensor, truth_hw: Tensor) -> None:
        """Add an image. Raises `DataError` for an id that is no class."""
        there = truth_hw != IGNORED
        truth, chosen, classes = truth_hw[there], chosen_hw[there], len(self.counts_KK)
        if len(truth) and int(truth.max()) >= classes:
            raise DataError(
                f"a mask holds class id {int(truth.max())}; wanted 0 to {classes - 1}, or {IGNORED}"
            )
        counts = torch.bincount(truth * classes + chosen, minlength=classes**2)
        self.counts_KK += counts.view(classes, classes).cpu()

    def iou(self) -> Tensor:
        """Intersection over union of each class [K]; NaN where it neither occurs nor is predicted."""
        right, truth, chosen = self._sums()
        return right / (truth + chosen - right)

    def scores(self) -> dict[str, float]:
        """mIoU, mAcc and aAcc in per cent."""
        right, truth, _ = self._sums()
        return {
            "mIoU": 100 * self.iou().nanmean().item(),
            "mAcc": 100 * (right / truth).nanmean().item(),
            "aAcc": 100 * (right.sum() / truth.sum()).item(),
        }

    def _sums(self) -> tuple[Tensor, Tensor, Tensor]:
        counts = self.counts_KK.double()
        return counts.diagonal(), counts.sum(1), counts.sum(0)


@dataclass
class DepthErrors:
    """Errors of depths between `least` and `most` metres. crop: which pixels count, of `CROPS`."""

    least: float
    most: float
    crop: str = "eigen"
    images: list[dict[str, float]] = field(default_factory=list)

    def add(self, depth_hw: Tensor, truth_hw: Tensor) -> None:
        """Add an image; without a pixel of known depth it does not count."""
        depth, truth = depth_hw.double(), truth_hw.double()
        counted = (truth > self.least) & (truth < self.most) & crop_mask(truth, self.crop)
        if counted.any():
            self.images.append(depth_errors(depth[counted].clamp(self.least, self.most), truth[counted]))

    def scores(self) -> dict[str, float]:
        """Mean over the images. Raises `DataError` if no image has a known depth."""
        if not self.images:
            raise DataError(
                f"no pixel has a depth between {self.least:g} and {self.most:g} m in crop {self.crop}; "
                "check --unit, --max-depth and --crop"
            )
        names = self.images[0]
        return {name: math.fsum(image[name] for image in self.images) / len(self.images) for name in names}


def depth_errors(depth: Tensor, truth: Tensor) -> dict[str, float]:
    """Errors of depths [n] against true ones [n], both positive, in metres."""
    ratio = torch.maximum(depth / truth, truth / depth)
    error, log_error = depth - truth, depth.log() - truth.log()
    found = {
        "rmse": error.square().mean().sqrt(),
        "abs_rel": (error.abs() / truth).mean(),
        "log_10": log_error.abs().mean() / math.log(10),
        "a1": (ratio < 1.25).double().mean(),
        "a2": (ratio < 1.25**2).double().mean(),
        "a3": (ratio < 1.25**3).double().mean(),
        "rmse_log": log_error.square().mean().sqrt(),
        "silog": 100 * log_error.var(correction=0).sqrt(),
        "sq_rel": (error.square() / truth).mean(),
        "mae": error.abs().mean(),
    }
    return {name: value.item() for name, value in found.items()}


def crop_mask(like_hw: Tensor, crop: str) -> Tensor:
    """Which pixels of a map count: bool [h,w]."""
    height, width = like_hw.shape
    mask = torch.ones(height, width, dtype=torch.bool, device=like_hw.device)
    if crop != "none":
        top, bottom, left, right = _EIGEN if crop == "eigen" else _GARG
        inside = slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))
        mask.fill_(False)
        mask[inside] = True
    return mask
