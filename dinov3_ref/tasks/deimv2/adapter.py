"""Backbone features of three blocks and the details of a small convolutional network, fused at three scales.

The spatial tuning adapter of DEIMv2 (arXiv:2509.20787, section 3.1): DINOv3 has one scale, 1/16; a detector
needs 1/8, 1/16 and 1/32.

Shapes: B batch, H W pixels, D embed_dim, C planes of the adapter, E width of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.tasks.deimv2.config import DeimV2Config
from dinov3_ref.tasks.deimv2.layers import Conv


class SpatialTuningAdapter(nn.Module):
    """Pixels [B,3,H,W] -> [B,2C,H/8,W/8], [B,4C,H/16,W/16], [B,4C,H/32,W/32], sizes rounded up."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.stem_conv = Conv(3, planes, 3, 2, activation="gelu")
        self.stem_pool = nn.MaxPool2d(3, 2, 1)
        self.conv2 = Conv(planes, 2 * planes, 3, 2)
        self.conv3 = Conv(2 * planes, 4 * planes, 3, 2)
        self.conv4 = Conv(4 * planes, 4 * planes, 3, 2)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eighth = self.conv2(self.stem_pool(self.stem_conv(pixels)))
        sixteenth = self.conv3(F.gelu(eighth))
        return eighth, sixteenth, self.conv4(F.gelu(sixteenth))


class FeaturePyramid(nn.Module):
    """Patch maps of three blocks [B,D,H/16,W/16] and pixels [B,3,H,W] -> three maps [B,E,h,w].

    They have 1/8, 1/16 and 1/32 of the image's size, rounded up.
    """

    def __init__(self, embed_dim: int, config: DeimV2Config) -> None:
        super().__init__()
        planes, width = config.planes, config.encoder_width
        self.spatial_tuning_adapter = SpatialTuningAdapter(planes)
        details = (2 * planes, 4 * planes, 4 * planes)
        self.fusion_proj = nn.ModuleList(Conv(embed_dim + c, width) for c in details)

    def forward(self, pixels: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
        details = self.spatial_tuning_adapter(pixels)
        fused = []
        for x, detail, project in zip(maps, details, self.fusion_proj, strict=True):
            resized = F.interpolate(x, size=detail.shape[-2:], mode="bilinear", align_corners=False)
            fused.append(project(torch.cat([resized, detail], dim=1)))
        return fused
