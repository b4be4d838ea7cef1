"""ConvNeXt in channels-last layout, as it is traced: transposed only around convolutions.

The reference (docs/spec.md 2.19) keeps maps as [B,C,h,w] and transposes them twice per block for the layers
that want channels last. Here the residual stream stays [B,h,w,C] and only convolutions are wrapped in
transposes. Each norm becomes one operator, downsampling needs one transpose less, and no operator depends on
the image size.

Shapes: B batch, C channels, H W pixels, h w feature map.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.models.convnext import Block, ConvNeXt, LayerNorm

CHANNELS_FIRST, CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # permutations


class ChannelsLastConv(nn.Module):
    """Convolution [B,h,w,C] -> [B,h',w',C']; with `of_pixels` its input is [B,C,H,W]."""

    def __init__(self, conv: nn.Module, of_pixels: bool = False) -> None:
        super().__init__()
        assert isinstance(conv, nn.Conv2d)
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        self.of_pixels = of_pixels

    def forward(self, x: Tensor) -> Tensor:
        x_BChw = x if self.of_pixels else x.permute(CHANNELS_FIRST)
        y_BChw = F.conv2d(x_BChw, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        return y_BChw.permute(CHANNELS_LAST)


class ChannelsLastBlock(nn.Module):
    """Replaces `Block` in the traced model: [B,h,w,C] -> [B,h,w,C]."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.dwconv = ChannelsLastConv(block.dwconv)
        self.norm, self.pwconv1, self.act, self.pwconv2 = block.norm, block.pwconv1, block.act, block.pwconv2
        self.gamma = block.gamma

    def forward(self, x_BhwC: Tensor) -> Tensor:
        branch = self.pwconv2(self.act(self.pwconv1(self.norm(self.dwconv(x_BhwC)))))
        return x_BhwC + (branch if self.gamma is None else self.gamma * branch)


class ChannelsFirstBlock(nn.Sequential):
    """Wraps a user's own block, which takes and returns [B,C,h,w] as in the reference; [B,h,w,C] outside."""

    def forward(self, x_BhwC: Tensor) -> Tensor:
        y_BChw: Tensor = super().forward(x_BhwC.permute(CHANNELS_FIRST))
        return y_BChw.permute(CHANNELS_LAST)


class ChannelsLastConvNeXt(ConvNeXt):
    """The same model over the same parameters. Modules keep their names, so weights are found by name.

    `any_size`: True if all blocks are ours, so that no operator depends on the size it is traced at.
    """

    def __init__(self, model: ConvNeXt) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(model.__dict__)
        (stem, norm), *downsamplers = (part.children() for part in model.downsample_layers)
        self.downsample_layers = nn.ModuleList(
            [
                nn.Sequential(ChannelsLastConv(stem, of_pixels=True), _on_last_axis(norm)),
                *(nn.Sequential(_on_last_axis(norm), ChannelsLastConv(conv)) for norm, conv in downsamplers),
            ]
        )
        blocks = [list(stage.children()) for stage in model.stages]
        self.any_size = all(type(block) is Block for stage in blocks for block in stage)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(ChannelsLastBlock(b) if type(b) is Block else ChannelsFirstBlock(b) for b in stage)
            )
            for stage in blocks
        )

    def channels_last_maps(self, x: Tensor) -> list[Tensor]:
        """Pixels [B,3,H,W] -> the map [B,h,w,C] after each stage."""
        maps = []
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
            maps.append(x)
        return maps


def _on_last_axis(norm: nn.Module) -> nn.Module:
    assert isinstance(norm, LayerNorm)
    norm.data_format = "channels_last"
    return norm
