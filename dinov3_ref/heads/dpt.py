"""DPT: four patch maps reassembled to four scales and fused from coarse to fine.

Source: docs/spec.md 5.6; arXiv:2103.13413.

Module names are those of the released depth and canopy-height heads (`dinov3_vit7b16_dd`,
`dinov3_vitl16_chmv2`), so their tensors load unchanged: `reassemble_blocks`, `convs`, `fusion_blocks`,
`project`, `conv_depth`.

Shapes: B batch, D embed_dim, h w patch grid, E channels after reassembling, C channels of the fusion, N bins.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.heads.depth import FeaturesToDepth
from dinov3_ref.heads.head import Head, arguments, map_names

SCALES = 4  # number of maps and of fusion steps
READOUTS = ("ignore", "add", "project")  # what happens to the CLS token of each block


class DPTHead(nn.Module):
    """Four maps [B,D,h,w], shallow to deep -> [B,N,16h',16w']; h' and w' are h and w rounded up to even.

    The coarsest map has half the patch grid and is doubled five times.
    """

    def __init__(
        self,
        embed_dim: int,
        channels: int,
        post_process_channels: Sequence[int],
        n_output_channels: int,
        n_hidden_channels: int,
        batchnorm: bool,
        bias: bool,
        readout: str = "ignore",
        project: bool = True,
    ) -> None:
        super().__init__()
        self.reassemble_blocks = _Reassemble(embed_dim, post_process_channels, batchnorm, readout)
        self.convs = nn.ModuleList(
            _named_conv(width, channels, kernel=3, bias=False) for width in post_process_channels
        )
        self.fusion_blocks = nn.ModuleList(_Fusion(channels, bias, first=i == 0) for i in range(SCALES))
        self.project = _named_conv(channels, channels, kernel=3, bias=True) if project else None
        self.conv_depth = _UpConv(channels, n_hidden_channels, n_output_channels)

    def forward(self, maps: Sequence[Tensor], cls: Sequence[Tensor] = ()) -> Tensor:
        scales = [conv(x) for conv, x in zip(self.convs, self.reassemble_blocks(maps, cls), strict=True)]
        fused = self.fusion_blocks[0](scales[-1], None)
        for block, finer in zip(self.fusion_blocks[1:], reversed(scales[:-1]), strict=True):
            fused = block(fused, finer)
        return self.conv_depth(fused if self.project is None else F.relu(self.project(fused)))


def _named_conv(inside: int, outside: int, *, kernel: int, bias: bool) -> nn.Sequential:
    """A convolution with the tensor names of the released file, `conv.weight` and `conv.bias`."""
    conv = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, bias=bias)
    return nn.Sequential(OrderedDict(conv=conv))


class _Reassemble(nn.Module):
    """Maps [B,D,h,w], and CLS tokens [B,D] for a read-out -> maps [B,E,…] at 4, 2, 1 and half the grid."""

    def __init__(self, embed_dim: int, widths: Sequence[int], batchnorm: bool, readout: str) -> None:
        super().__init__()
        self.readout = readout
        if readout == "project":
            self.readout_projects = nn.ModuleList(
                nn.Sequential(nn.Linear(2 * embed_dim, embed_dim), nn.GELU()) for _ in widths
            )
        self.batchnorm_layers = nn.ModuleList(
            nn.BatchNorm2d(embed_dim) if batchnorm else nn.Identity() for _ in widths
        )
        self.projects = nn.ModuleList(_named_conv(embed_dim, width, kernel=1, bias=True) for width in widths)
        self.resize_layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(widths[0], widths[0], kernel_size=4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], kernel_size=3, stride=2, padding=1),
            )
        )

    def forward(self, maps: Sequence[Tensor], cls: Sequence[Tensor]) -> list[Tensor]:
        if self.readout != "ignore":
            maps = [self._read_out(i, x, token) for i, (x, token) in enumerate(zip(maps, cls, strict=True))]
        steps = zip(self.batchnorm_layers, self.projects, self.resize_layers, maps, strict=True)
        return [resize(project(norm(x))) for norm, project, resize, x in steps]

    def _read_out(self, index: int, x: Tensor, cls: Tensor) -> Tensor:
        """A map [B,D,h,w] with the CLS token [B,D] added to every patch, or joined to it and projected."""
        if self.readout == "add":
            return x + cls[:, :, None, None]
        patches = x.permute(0, 2, 3, 1)
        joined = torch.cat((patches, cls[:, None, None].expand_as(patches)), dim=-1)
        return self.readout_projects[index](joined).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    """Pre-activation residual unit [B,C,h,w] -> [B,C,h,w]; the skip connection has no activation."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.conv1 = _named_conv(channels, channels, kernel=3, bias=bias)
        self.conv2 = _named_conv(channels, channels, kernel=3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class _Fusion(nn.Module):
    """[B,C,h,w] and the finer map [B,C,h,w] -> [B,C,2h,2w]; the first block has no finer map."""

    def __init__(self, channels: int, bias: bool, *, first: bool) -> None:
        super().__init__()
        self.project = _named_conv(channels, channels, kernel=1, bias=True)
        self.res_conv_unit1 = None if first else _Residual(channels, bias)
        self.res_conv_unit2 = _Residual(channels, bias)

    def forward(self, x: Tensor, finer: Tensor | None) -> Tensor:
        if self.res_conv_unit1 is not None and finer is not None:
            # for an odd grid the sizes differ by one row or column; for an even one this does nothing
            finer = F.interpolate(finer, size=x.shape[-2:], mode="bilinear", align_corners=False)
            x = x + self.res_conv_unit1(finer)
        doubled = F.interpolate(self.res_conv_unit2(x), scale_factor=2.0, mode="bilinear", align_corners=True)
        return self.project(doubled)


class _UpConv(nn.Module):
    """3x3 to half the channels, 2x upsampling, 3x3 to `hidden`, ReLU, 1x1 to the bins."""

    def __init__(self, channels: int, hidden: int, bins: int) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.UpsamplingBilinear2d(scale_factor=2),  # aligned corners
            nn.Conv2d(channels // 2, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, bins, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class DPTDepth(Head):
    """Maps [B,h,w,D] of four blocks -> `depth` [B,1,H,W].

    Equals the official depther on even patch grids. On an odd grid the official map is one patch larger than
    the image in that direction; with `fit` it is resized to the image's H and W. With a read-out, the CLS
    tokens of the blocks [B,D] are inputs too, after the maps.
    """

    task = "depth"

    def __init__(
        self,
        embed_dim: int,
        layers: Sequence[int],
        channels: int = 512,
        post_process_channels: Sequence[int] = (2048, 2048, 2048, 2048),
        n_bins: int = 256,
        n_hidden_channels: int = 32,
        min_depth: float = 0.001,
        max_depth: float = 100.0,
        bins: str = "linear",
        norm: str = "linear",
        batchnorm: bool = True,
        bias: bool = False,
        patch_size: int = 16,
        readout: str = "ignore",
        project: bool = True,
        fit: bool = True,
    ) -> None:
        super().__init__()
        self._config = arguments(locals())
        if not len(layers) == len(post_process_channels) == SCALES or list(layers) != sorted(set(layers)):
            raise ConfigError(
                f"layers {list(layers)} with {len(post_process_channels)} widths; wanted four blocks in "
                "ascending order and one width each"
            )
        if readout not in READOUTS:
            raise ConfigError(f"readout {readout!r} is unknown; wanted one of {', '.join(READOUTS)}")
        self.embed_dim, self.patch_size, self.fit = embed_dim, patch_size, fit
        self.inputs = map_names(layers)
        if readout != "ignore":
            self.inputs += tuple(f"cls_{index}" for index in layers)
        sides = ("height", "width") if fit else ("depth_height", "depth_width")
        self.outputs = {"depth": ("batch", 1, *sides)}
        self.decoder = DPTHead(
            embed_dim,
            channels,
            post_process_channels,
            n_bins,
            n_hidden_channels,
            batchnorm,
            bias,
            readout,
            project,
        )
        self.to_depth = FeaturesToDepth(n_bins, min_depth, max_depth, bins, norm)
        self.needs_condition = self.to_depth.is_sharp

    @property
    def settings(self) -> dict[str, Any]:
        return {} if self.fit else {"align_corners": True}  # how a map of its own size becomes the image's

    def forward(self, *features: Tensor) -> tuple[Tensor]:
        maps, cls = features[:SCALES], features[SCALES:]
        depth = self.to_depth(self.decoder([x.permute(0, 3, 1, 2) for x in maps], cls))
        if not self.fit:
            return (depth,)
        h, w = maps[0].shape[1:3]
        size = (self.patch_size * h, self.patch_size * w)
        return (F.interpolate(depth, size=size, mode="bilinear", align_corners=False),)
