"""Hybrid encoder: self-attention within the coarsest map, then fusion of the scales, down and up.

RT-DETR's encoder (arXiv:2304.08069, section 4.2) with DEIMv2's changes: maps are added, not concatenated, and
the fusion block has two branches (arXiv:2509.20787). Module names are those of transformers' class.

Shapes: B batch, E width, h w map, P = h*w positions, F = E/4 frequencies an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.tasks.deimv2.config import DeimV2Config
from dinov3_ref.tasks.deimv2.layers import MLP, Conv, SelfAttention


class CSPRepLayer(nn.Module):
    """Half of the channels run through RepVGG blocks, the other half is added: [B,C,h,w] -> [B,C',h,w].

    A RepVGG block (arXiv:2101.03697) is the sum of a 3x3 and a 1x1 convolution, here one of 3x3 (`fold.py`).
    """

    def __init__(self, inside: int, outside: int, config: DeimV2Config) -> None:
        super().__init__()
        act = config.activation
        self.conv1 = Conv(inside, 2 * outside, activation=act)
        self.bottlenecks = nn.ModuleList(
            Conv(outside, outside, 3, activation=act) for _ in range(config.csp_depth)
        )
        self.conv2 = Conv(outside, outside, 3, activation=act) if config.trailing_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        skip, x = self.conv1(x).chunk(2, dim=1)
        for block in self.bottlenecks:
            x = block(x)
        return self.conv2(skip + x)


class FusionBlock(nn.Module):
    """Two CSP layers in a row; both halves of the input and both results are joined, [B,E,h,w] each."""

    def __init__(self, config: DeimV2Config) -> None:
        super().__init__()
        width, inner = config.encoder_width, config.csp_width
        self.conv1 = Conv(width, 2 * width, activation=config.activation)
        self.csp_rep1 = CSPRepLayer(width, inner, config)
        self.csp_rep2 = CSPRepLayer(inner, inner, config)
        self.conv2 = Conv(2 * (width + inner), width, activation=config.activation)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv1(x).chunk(2, dim=1)
        third = self.csp_rep1(second)
        return self.conv2(torch.cat([first, second, third, self.csp_rep2(third)], dim=1))


class Downsample(nn.Module):
    """1x1 convolution, then a depthwise 3x3 convolution of stride 2: [B,E,h,w] -> [B,E,h/2,w/2]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = Conv(width, width)
        self.conv2 = Conv(width, width, 3, 2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class EncoderLayer(nn.Module):
    """Self-attention and MLP with residuals, normed after each, or before it: [B,P,E] -> [B,P,E]."""

    def __init__(self, config: DeimV2Config) -> None:
        super().__init__()
        width = config.encoder_width
        self.norm_first = config.norm_first
        self.self_attn = SelfAttention(width, config.encoder_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.mlp = MLP(width, config.encoder_ffn, width, 2, config.encoder_activation)
        self.final_layer_norm = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        if self.norm_first:
            # transformers' order: both residual branches start from the normed tokens
            normed = self.self_attn_layer_norm(x)
            x = self.final_layer_norm(x + self.self_attn(normed, positions))
            return x + self.mlp(x)
        x = self.self_attn_layer_norm(x + self.self_attn(x, positions))
        return self.final_layer_norm(x + self.mlp(x))


class MapEncoder(nn.Module):
    """Transformer layers over the positions of one map: [B,E,h,w] -> [B,E,h,w].

    With a fixed `eval_size`, transformers adds no positions at inference.
    """

    frequencies: Tensor

    def __init__(self, config: DeimV2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.has_positions = config.encoder_positions
        count = config.encoder_width // 4
        powers = torch.arange(count, dtype=torch.float64) / count
        frequencies = (1.0 / config.temperature**powers).float()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        positions = self._positions(h, w) if self.has_positions else None
        for layer in self.layers:
            tokens = layer(tokens, positions)
        return tokens.transpose(1, 2).unflatten(2, (h, w))

    def _positions(self, h: Any, w: Any) -> Tensor:
        """Sine and cosine of the row, then of the column, at every position [P,E]."""
        rows, columns = (
            torch.arange(n, device=self.frequencies.device)[:, None] * self.frequencies for n in (h, w)
        )
        count = self.frequencies.shape[0]
        angles = torch.cat(
            [rows[:, None].expand(h, w, count), columns[None].expand(h, w, count)], dim=-1
        ).flatten(0, 1)
        sin, cos = angles.sin(), angles.cos()
        return torch.cat([sin[:, :count], cos[:, :count], sin[:, count:], cos[:, count:]], dim=1)


class HybridEncoder(nn.Module):
    """Maps [B,E,h,w] at several scales, fine to coarse -> as many maps of the same shapes."""

    def __init__(self, config: DeimV2Config) -> None:
        super().__init__()
        steps = config.scales - 1
        width = config.encoder_width
        self.attended = config.encoded_maps if config.encoder_layers else ()
        self.aifi = nn.ModuleList(MapEncoder(config) for _ in config.encoded_maps)
        self.lateral_convs = nn.ModuleList(Conv(width, width) for _ in range(steps))
        self.fpn_blocks = nn.ModuleList(FusionBlock(config) for _ in range(steps))
        self.downsample_convs = nn.ModuleList(Downsample(width) for _ in range(steps))
        self.pan_blocks = nn.ModuleList(FusionBlock(config) for _ in range(steps))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        maps = list(maps)
        for index, encode in zip(self.attended, self.aifi, strict=False):
            maps[index] = encode(maps[index])
        down = [maps[-1]]  # coarse to fine
        for lateral, fuse, finer in zip(self.lateral_convs, self.fpn_blocks, maps[-2::-1], strict=True):
            down[-1] = lateral(down[-1])
            down.append(fuse(F.interpolate(down[-1], size=finer.shape[-2:], mode="nearest") + finer))
        up = [down[-1]]  # fine to coarse
        for halve, fuse, coarser in zip(self.downsample_convs, self.pan_blocks, down[-2::-1], strict=True):
            up.append(fuse(halve(up[-1]) + coarser))
        return up
