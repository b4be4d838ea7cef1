"""Patch grids: the grid of a crop, resizing features to another grid (docs/spec.md 2.19, 4.7, 4.17).

Shapes: C crops, N patches of the source grid, P patches of the wanted grid, D embed_dim, H W crop size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dinov3_ref.models import Backbone, stride_of

Grid = tuple[int, int]  # rows, columns
SMOOTH = ("bicubic", "bilinear")  # interpolation methods with an antialias option


def grid_of(crops: Tensor, patch_size: int) -> Grid:
    """Patch grid (rows, columns) of crops [C,3,H,W]."""
    return crops.shape[-2] // patch_size, crops.shape[-1] // patch_size


def patches_on_grid(backbone: Backbone, patches_CND: Tensor, crops: Tensor, patch_size: int) -> Tensor:
    """Normed patch features [C,N,D] of crops [C,3,H,W] -> [C,P,D] on the grid of `patch_size`.

    A ViT's features are returned unchanged. A ConvNeXt has one patch per 32 x 32 pixels; its features are
    resized as its `patch_size` option does, so that they match a ViT's patches one to one.
    """
    grid, wanted = grid_of(crops, stride_of(backbone)), grid_of(crops, patch_size)
    return resize_patches(patches_CND, grid, wanted, "bilinear", antialias=True)


def resize_patches(
    patches_CND: Tensor, grid: Grid, wanted: Grid, method: str = "area", *, antialias: bool = False
) -> Tensor:
    """Resize [C,N,D] on `grid` to [C,P,D] on `wanted`, with `torch.nn.functional.interpolate` in fp32.

    method: "area" averages the patches covered by a wanted one. Equal grids return the input.
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
    """Crops [C,3,H,W] -> [C,3,H/scale,W/scale], bicubic with antialias; scale 1 returns the input."""
    if scale == 1:
        return crops
    size = (int(crops.shape[-2] / scale), int(crops.shape[-1] / scale))
    resized = F.interpolate(crops.float(), size=size, mode="bicubic", align_corners=False, antialias=True)
    return resized.to(crops.dtype)
