"""Patches as the maps they are: the grid of a crop, and one grid on another (docs/spec.md 2.19, 4.7, 4.17).

Shapes: C crops, N and P patches of the two grids, D embed_dim.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dinov3_ref.models import Backbone, stride_of

Grid = tuple[int, int]  # rows, columns
SMOOTH = ("bicubic", "bilinear")  # methods that can antialias


def grid_of(crops: Tensor, patch_size: int) -> Grid:
    """Patch grid of crops [C,3,H,W]."""
    return crops.shape[-2] // patch_size, crops.shape[-1] // patch_size


def patches_on_grid(backbone: Backbone, patches_CND: Tensor, crops: Tensor, patch_size: int) -> Tensor:
    """Patches [C,N,D] of a backbone, normed, for crops [C,3,H,W] -> [C,P,D] on the grid of `patch_size`.

    A ViT's are there already, and stay as they are. A ConvNeXt's are one for 32 x 32 pixels: they are resized
    as its `patch_size` option resizes maps, so that they can be held against a ViT's one by one.
    """
    grid, wanted = grid_of(crops, stride_of(backbone)), grid_of(crops, patch_size)
    return resize_patches(patches_CND, grid, wanted, "bilinear", antialias=True)


def resize_patches(
    patches_CND: Tensor, grid: Grid, wanted: Grid, method: str = "area", *, antialias: bool = False
) -> Tensor:
    """[C,N,D] on `grid` -> [C,P,D] on `wanted`, by a method of `torch.nn.functional.interpolate`, in fp32.

    "area" averages the patches that a wanted one covers. The same grid is given back as it is.
    """
    if grid == wanted:
        return patches_CND
    resized = F.interpolate(
        patches_CND.transpose(1, 2).unflatten(2, grid).float(),
        size=wanted,
        mode=method,
        align_corners=False if method in SMOOTH else None,
        antialias=antialias and method in SMOOTH,
    )
    return resized.flatten(2).transpose(1, 2)


def shrink_crops(crops: Tensor, scale: float) -> Tensor:
    """Crops [C,3,H,W] -> [C,3,H/scale,W/scale], bicubic with antialias; scale 1 gives them back."""
    if scale == 1:
        return crops
    size = (int(crops.shape[-2] / scale), int(crops.shape[-1] / scale))
    resized = F.interpolate(crops.float(), size=size, mode="bicubic", align_corners=False, antialias=True)
    return resized.to(crops.dtype)
