"""PCA of patch features as colours: three components fitted on all patches of a few images.

Shapes: N images, S side, h x w patches, P = h·w, D embed_dim.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dinov3_ref.eval.features import FrozenModel, last_blocks

RANGE = (0.02, 0.98)  # quantiles shown as black and as full colour
GAP = 4  # pixels


def draw_pca_maps(frozen: FrozenModel, images_NCSS: Tensor, path: Path) -> None:
    """Write a PNG: the images in one row, their maps below; a colour means the same in every map."""
    patches_NPD = last_blocks(frozen, images_NCSS, 1)[0][0].float().cpu()
    side, grid = images_NCSS.shape[-1], math.isqrt(patches_NPD.shape[1])
    colours = pca_colours(patches_NPD).transpose(1, 2).unflatten(-1, (grid, grid))
    maps = F.interpolate(colours, size=(side, side), mode="nearest")
    channels = torch.tensor([frozen.mean, frozen.std]).view(2, 1, 3, 1, 1)
    shown_N3SS = (images_NCSS.cpu() * channels[1] + channels[0]).clamp(0, 1)
    sheet = torch.cat([_row(shown_N3SS), _row(maps)], dim=1)
    pixels = (255 * sheet).round().to(torch.uint8).permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(path)


def pca_colours(patches_NPD: Tensor) -> Tensor:
    """Features -> colours [N,P,3] in 0..1. The largest weight of each component is positive."""
    rows = patches_NPD.flatten(0, 1).double()
    rows = rows - rows.mean(0)
    _, directions_DD = torch.linalg.eigh(rows.T @ rows)  # in ascending order of variance
    first_3D = directions_DD[:, -3:].T.flip(0)
    largest_31 = first_3D.gather(1, first_3D.abs().argmax(1, keepdim=True))
    shades = rows @ (first_3D * largest_31.sign()).T
    low, high = torch.quantile(shades, torch.tensor(RANGE, dtype=shades.dtype), dim=0)
    return (
        ((shades - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).float().view(*patches_NPD.shape[:2], 3)
    )


def _row(images: Tensor) -> Tensor:
    """[N,3,S,S] -> [3,S+GAP,N·(S+GAP)], white between them."""
    padded = F.pad(images, (0, GAP, 0, GAP), value=1.0)
    return torch.cat(list(padded), dim=2)
