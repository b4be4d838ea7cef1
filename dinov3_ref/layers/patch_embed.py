"""Image to patch tokens: a convolution with kernel size = stride = patch size (docs/spec.md 2.1).

Shapes: B batch, C channels, H W pixels, h w patch grid (H//p, W//p), D embed_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


class PatchEmbed(nn.Module):
    """[B,C,H,W] -> [B,h*w,D], or [B,h,w,D] with `flatten_embedding=False`.

    If H or W is not a multiple of the patch size, the rest at the right and bottom is cut off, as in the
    official model; the deployment runtime refuses such sizes.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        norm_layer: Callable[[int], nn.Module] | None = None,
        flatten_embedding: bool = True,
    ) -> None:
        super().__init__()
        self.img_size = _pair(img_size)
        self.patch_size = _pair(patch_size)
        rows, columns = (side // p for side, p in zip(self.img_size, self.patch_size, strict=True))
        self.patches_resolution = (rows, columns)
        self.num_patches = rows * columns
        self.in_chans = in_chans
        self.embed_dim = embed_dim
        self.flatten_embedding = flatten_embedding
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=self.patch_size, stride=self.patch_size)
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BDhw = self.proj(x_BCHW)
        h, w = x_BDhw.shape[2:]
        x_BPD = self.norm(x_BDhw.flatten(2).transpose(1, 2))
        return x_BPD if self.flatten_embedding else x_BPD.reshape(-1, h, w, self.embed_dim)

    def reset_parameters(self) -> None:
        """Initialise uniformly in ±sqrt(1 / (C·p²)) (docs/spec.md 2.1)."""
        bound = math.sqrt(1.0 / (self.in_chans * math.prod(self.patch_size)))
        nn.init.uniform_(self.proj.weight, -bound, bound)
        if self.proj.bias is not None:
            nn.init.uniform_(self.proj.bias, -bound, bound)
        if isinstance(self.norm, nn.LayerNorm):
            self.norm.reset_parameters()
