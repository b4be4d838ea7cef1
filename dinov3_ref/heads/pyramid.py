"""A feature pyramid for detectors, from a plain ViT.

Source: docs/development/seed.md S34; arXiv:2203.16527: resizing suffices.

Shapes: B batch, D embed_dim, h w patch grid, p patch size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.heads.head import Head, arguments
from dinov3_ref.heads.linear import enlarge
from dinov3_ref.models import DinoVisionTransformer

FACTORS = (4, 2, 1, 0.5)  # times the patch grid, shallow block to deep


class FeaturePyramid(Head):
    """Maps [B,h,w,D] of four blocks -> `level_4` [B,D,4h,4w] … `level_32` [B,D,h//2,w//2].

    Names are strides in pixels, here for a patch size of 16. Resizing is bilinear, without weights; the
    coarsest level is the mean of 2x2 patches, so images need at least two rows and columns of patches.
    """

    task = "pyramid"

    def __init__(self, embed_dim: int, layers: Sequence[int], patch_size: int = 16) -> None:
        super().__init__()
        self._config = arguments(locals())
        if len(layers) != len(FACTORS) or list(layers) != sorted(set(layers)) or min(layers) < 0:
            raise ConfigError(f"pyramid of blocks {list(layers)}; wanted four different blocks, ascending")
        self.embed_dim = embed_dim
        self.inputs = tuple(f"layer_{index}" for index in layers)
        strides = [round(patch_size / factor) for factor in FACTORS]
        self.outputs = {f"level_{s}": ("batch", embed_dim, f"rows_{s}", f"columns_{s}") for s in strides}

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        return tuple(_resize(x.permute(0, 3, 1, 2), factor) for x, factor in zip(maps, FACTORS, strict=True))


def _resize(x: Tensor, factor: float) -> Tensor:
    """[B,D,h,w] -> [B,D,factor h,factor w]."""
    if factor < 1:
        return F.avg_pool2d(x, round(1 / factor))
    return enlarge(x, factor) if factor > 1 else x


class DINOFeatureExtractor(nn.Module):
    """Feature extractor: pixels [B,3,H,W] -> maps [B,D,h,w] of chosen blocks, frozen.

    With `pyramid`: the four maps of `FeaturePyramid` at strides 4, 8, 16 and 32, as feature pyramid networks
    and Mask2Former expect.
    """

    def __init__(
        self,
        dinov3_backbone: DinoVisionTransformer,
        n: Sequence[int] = (3, 5, 7, 11),
        *,
        pyramid: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = dinov3_backbone.eval().requires_grad_(False)
        self.n = list(n)
        self.pyramid = (
            FeaturePyramid(self.backbone.embed_dim, self.n, self.backbone.patch_size) if pyramid else None
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            maps = self.backbone.get_intermediate_layers(x, n=self.n, reshape=True)
        if self.pyramid is None:
            return maps
        return self.pyramid(*(feature.permute(0, 2, 3, 1) for feature in maps))
