"""Decoder: queries attend to each other and to sampled points of the maps, and refine their boxes.

DEIMv2's decoder (arXiv:2509.20787): that of D-FINE (arXiv:2410.13842) with a gated residual, SwiGLU and
RMSNorm. Module names are those of transformers' class.

Shapes: B batch, Q queries, D width, N heads, d = D/N, L maps, h w of a map, S points of all maps, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.tasks.deimv2.boxes import (
    QualityEstimator,
    bin_offsets,
    expected_offsets,
    inverse_sigmoid,
    move_sides,
)
from dinov3_ref.tasks.deimv2.config import DeimV2Config
from dinov3_ref.tasks.deimv2.layers import MLP, RMSNorm, SelfAttention

POSITION_LIMIT = 10.0  # of the position embedding of a box


class DeformableAttention(nn.Module):
    """Weighted mean of points sampled from every map, around the box of a query (arXiv:2010.04159).

    queries [B,Q,D], boxes (cx, cy, w, h) [B,Q,4], maps of heads [BN,d,h,w] -> [B,Q,D]. The maps are the
    values, without a projection. nearest: take the nearest pixel instead of interpolating ("discrete").
    """

    num_points_scale: Tensor

    def __init__(self, config: DeimV2Config) -> None:
        super().__init__()
        self.heads, self.counts = config.decoder_heads, config.points
        self.offset_scale, self.nearest = config.offset_scale, config.nearest_points
        total = config.decoder_heads * sum(config.points)
        self.register_buffer(
            "num_points_scale", torch.tensor([1 / n for n in config.points for _ in range(n)])
        )
        self.sampling_offsets = nn.Linear(config.width, 2 * total)
        self.attention_weights = nn.Linear(config.width, total)

    def forward(self, queries: Tensor, boxes: Tensor, maps: Sequence[Tensor]) -> Tensor:
        shape = (self.heads, sum(self.counts))
        offsets = self.sampling_offsets(queries).unflatten(-1, (*shape, 2))
        weights = torch.softmax(self.attention_weights(queries).unflatten(-1, shape), dim=-1)
        centre, size = boxes[:, :, None, None, :2], boxes[:, :, None, None, 2:]
        places = centre + offsets * self.num_points_scale[:, None] * size * self.offset_scale
        places = places.transpose(1, 2).flatten(0, 1)  # [BN,Q,S,2]
        parts = places.split(list(self.counts), dim=-2)
        sampled = [self._sample(x, at) for x, at in zip(maps, parts, strict=True)]
        weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # [BN,1,Q,S]
        mixed = (torch.cat(sampled, dim=-1) * weights).sum(-1)  # [BN,d,Q]
        return mixed.unflatten(0, (-1, self.heads)).flatten(1, 2).transpose(1, 2)

    def _sample(self, x: Tensor, at: Tensor) -> Tensor:
        """Map [BN,d,h,w] at shares of its size (x, y) [BN,Q,S,2] -> [BN,d,Q,S]."""
        if not self.nearest:
            return F.grid_sample(x, 2.0 * at - 1.0, "bilinear", "zeros", align_corners=False)
        h, w = x.shape[-2:]
        pixels = [(at[..., axis] * n + 0.5).clamp(0.0, n - 1).floor() for axis, n in enumerate((w, h))]
        centres = [(2.0 * i + 1.0) / n - 1.0 for i, n in zip(pixels, (w, h), strict=True)]
        return F.grid_sample(x, torch.stack(centres, dim=-1), "nearest", "zeros", align_corners=False)


class GatedResidual(nn.Module):
    """RMSNorm of a gated sum: residual [B,Q,D], update [B,Q,D] -> [B,Q,D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, 2 * width)
        self.norm = RMSNorm(width)

    def forward(self, residual: Tensor, update: Tensor) -> Tensor:
        keep, take = torch.sigmoid(self.gate(torch.cat([residual, update], dim=-1))).chunk(2, dim=-1)
        return self.norm(keep * residual + take * update)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (arXiv:2002.05202): [B,Q,D] -> [B,Q,D]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden)
        self.up_proj = nn.Linear(width, hidden)
        self.down_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Self-attention, deformable attention, SwiGLU: queries, positions [B,Q,D], boxes [B,Q,4] -> [B,Q,D]."""

    def __init__(self, config: DeimV2Config) -> None:
        super().__init__()
        width = config.width
        self.self_attn = SelfAttention(width, config.decoder_heads)
        self.self_attn_layer_norm = RMSNorm(width)
        self.encoder_attn = DeformableAttention(config)
        self.gateway = GatedResidual(width) if config.gated else None
        self.encoder_attn_layer_norm = None if config.gated else RMSNorm(width)
        self.mlp = SwiGLU(width, config.decoder_ffn // 2)
        self.final_layer_norm = RMSNorm(width)

    def forward(self, x: Tensor, positions: Tensor, boxes: Tensor, maps: Sequence[Tensor]) -> Tensor:
        x = self.self_attn_layer_norm(x + self.self_attn(x, positions))
        update = self.encoder_attn(x + positions, boxes, maps)
        if self.gateway is not None:
            x = self.gateway(x, update)
        else:
            assert self.encoder_attn_layer_norm is not None
            x = self.encoder_attn_layer_norm(x + update)
        return self.final_layer_norm(x + self.mlp(x))


class Decoder(nn.Module):
    """Chosen queries and their boxes -> class logits [B,Q,C] and boxes (cx, cy, w, h) [B,Q,4].

    Only the last layer scores classes at inference, so the other layers' class heads are not here. offsets:
    what each bin moves a side by (`bin_offsets`).
    """

    offsets: Tensor
    reg_scale: Tensor

    def __init__(self, config: DeimV2Config) -> None:
        super().__init__()
        width, sides = config.width, 4 * (config.bins + 1)
        self.heads = config.decoder_heads
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.query_pos_head = MLP(4, width, width, 3, config.decoder_activation)
        self.pre_bbox_head = MLP(width, width, 4, 3)
        own = [
            MLP(width, width, sides, 3) for _ in range(1 if config.shared_boxes else config.decoder_layers)
        ]
        self.bbox_embed = nn.ModuleList(own * (config.decoder_layers if config.shared_boxes else 1))
        self.class_embed = nn.Linear(width, len(config.classes))
        self.quality = QualityEstimator(config.quality_top, config.quality_width, config.quality_depth)
        scale = torch.tensor([config.reg_scale])
        self.register_buffer("reg_scale", scale)
        self.register_buffer("offsets", bin_offsets(config.bins, torch.tensor([config.up]), scale))

    def forward(self, x: Tensor, boxes: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        of_heads = [m.unflatten(1, (self.heads, -1)).flatten(0, 1) for m in maps]
        initial, sides, previous = boxes, torch.zeros(()), torch.zeros(())
        for index, (layer, to_sides) in enumerate(zip(self.layers, self.bbox_embed, strict=True)):
            positions = self.query_pos_head(boxes).clamp(-POSITION_LIMIT, POSITION_LIMIT)
            x = layer(x, positions, boxes, of_heads)
            if index == 0:
                initial = torch.sigmoid(self.pre_bbox_head(x) + inverse_sigmoid(boxes))
                sides = to_sides(x)
            else:
                sides = to_sides(x + previous) + sides
            boxes = move_sides(initial, expected_offsets(sides, self.offsets), self.reg_scale)
            previous = x
        return self.quality(self.class_embed(x), sides), boxes
