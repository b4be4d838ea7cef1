"""Predict an image in overlapping windows, or whole with its border padded (docs/spec.md 5.4, 5.6).

Shapes: H W input pixels, K channels of the prediction, S side of a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Predict = Callable[[Tensor], Tensor]  # [B,3,S,S] -> [B,K,S,S]


def window_starts(length: int, side: int, stride: int) -> list[int]:
    """Starts of windows that cover `length` pixels; the last ends at the border."""
    count = max(0, math.ceil((length - side) / stride)) + 1
    return [min(index * stride, length - side) for index in range(count)]


def slide(predict: Predict, image_3HW: Tensor, side: int, stride: int, batch: int) -> Tensor:
    """Mean prediction of all windows [K,H,W], on the CPU. H and W are at least `side`."""
    height, width = image_3HW.shape[1:]
    corners = [
        (top, left)
        for top in window_starts(height, side, stride)
        for left in window_starts(width, side, stride)
    ]
    total, times = None, torch.zeros(height, width)
    for corner, made in _predicted(predict, image_3HW, corners, side, batch):
        place = slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side)
        total = torch.zeros(len(made), height, width) if total is None else total
        total[(slice(None), *place)] += made
        times[place] += 1
    assert total is not None
    return total / times


def _predicted(
    predict: Predict, image_3HW: Tensor, corners: list[tuple[int, int]], side: int, batch: int
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    for start in range(0, len(corners), batch):
        some = corners[start : start + batch]
        cut = [image_3HW[:, top : top + side, left : left + side] for top, left in some]
        yield from zip(some, predict(torch.stack(cut)).float().cpu(), strict=True)


def whole(predict: Predict, image_3HW: Tensor, multiple: int, *, flipped: bool = False) -> Tensor:
    """Prediction of the whole image [K,H,W], on the CPU; flipped: the mean with that of the mirror image.

    The border is padded with zeros on both sides to a multiple, and cut off again.
    """
    height, width = image_3HW.shape[1:]
    down, across = -height % multiple, -width % multiple
    padded = F.pad(image_3HW, (across // 2, across - across // 2, down // 2, down - down // 2))
    images = torch.stack([padded, padded.flip(-1)] if flipped else [padded])
    made = predict(images).float().cpu()
    mean = (made[0] + made[1].flip(-1)) / 2 if flipped else made[0]
    return mean[:, down // 2 : down // 2 + height, across // 2 : across // 2 + width]


def resize(x_KHW: Tensor, size: tuple[int, int]) -> Tensor:
    """[K,H,W] -> [K,h,w], bilinear."""
    if x_KHW.shape[1:] == size:
        return x_KHW
    return F.interpolate(x_KHW[None], size=size, mode="bilinear", align_corners=False)[0]
