"""A ConvNeXt as it is traced: channels last from the stem on, turned only around its convolutions.

The reference keeps maps as [B,C,h,w] and turns them for the layers that want channels last, twice a block.
Turned around each convolution instead, the residual stream and every norm lie as the products take them, a
norm is one operator, downsampling needs one turn less, and no operator is left that depends on a size.

Shapes: B batch, C channels, H W pixels, h w a map.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.models.convnext import Block, ConvNeXt, LayerNorm

FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # how to permute to channels first, and last


class TurnedConv(nn.Module):
    """A convolution of [B,h,w,C], or of the pixels [B,C,H,W] with `of_pixels`; [B,h,w,C] comes out."""

    def __init__(self, conv: nn.Module, of_pixels: bool = False) -> None:
        super().__init__()
        assert isinstance(conv, nn.Conv2d)
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        self.of_pixels = of_pixels

    def forward(self, x: Tensor) -> Tensor:
        first = x if self.of_pixels else x.permute(FIRST)
        made = F.conv2d(first, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        return made.permute(LAST)


class TurnedBlock(nn.Module):
    """Stands in for `Block`: [B,h,w,C] in and out."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.dwconv = TurnedConv(block.dwconv)
        self.norm, self.pwconv1, self.act, self.pwconv2 = block.norm, block.pwconv1, block.act, block.pwconv2
        self.gamma = block.gamma

    def forward(self, x: Tensor) -> Tensor:
        branch = self.pwconv2(self.act(self.pwconv1(self.norm(self.dwconv(x)))))
        return x + (branch if self.gamma is None else self.gamma * branch)


class TurnedBack(nn.Sequential):
    """A user's own block, which sees [B,C,h,w] as in the reference."""

    def forward(self, x: Tensor) -> Tensor:
        turned: Tensor = super().forward(x.permute(FIRST))
        return turned.permute(LAST)


class ChannelsLastConvNeXt(ConvNeXt):
    """A twin on the same parameters. Its parts keep their names, so weights are found by them.

    `any_size`: made of stock parts alone, no operator of it depends on the size it is traced at.
    """

    def __init__(self, twin: ConvNeXt) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(twin.__dict__)
        (stem, norm), *downsamplers = (part.children() for part in twin.downsample_layers)
        self.downsample_layers = nn.ModuleList(
            [
                nn.Sequential(TurnedConv(stem, of_pixels=True), _on_last_axis(norm)),
                *(nn.Sequential(_on_last_axis(norm), TurnedConv(conv)) for norm, conv in downsamplers),
            ]
        )
        blocks = [list(stage.children()) for stage in twin.stages]
        self.any_size = all(type(block) is Block for stage in blocks for block in stage)
        self.stages = nn.ModuleList(nn.Sequential(*map(_turn, stage)) for stage in blocks)

    def channels_last_maps(self, x: Tensor) -> list[Tensor]:
        maps = []
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
            maps.append(x)
        return maps


def _turn(block: nn.Module) -> nn.Module:
    return TurnedBlock(block) if type(block) is Block else TurnedBack(block)


def _on_last_axis(norm: nn.Module) -> nn.Module:
    assert isinstance(norm, LayerNorm)
    norm.data_format = "channels_last"
    return norm
