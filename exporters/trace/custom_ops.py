"""Custom ops for RoPE, rotary and causal attention, and the modules that call them in the traced model.

Plain tracing of these two parts gives bad graphs: `Tile` becomes `If`, the scale lands on both q and k, and
each block computes its own RoPE table (docs/architecture.md). So the traced model calls one custom op for
each, and a dialect (`exporters/dialects/`) translates the op to ONNX. The eager kernels here define the ops;
`tests/exporters/trace/test_custom_ops.py` compares them with `dinov3_ref`.

Sources: RoPE, arXiv:2508.10104 and docs/spec.md 2.2 and 2.3; attention, docs/spec.md 2.5 and arXiv:1706.03762
eq. 1.

Shapes: B batch, h w patch grid, P prefix tokens (CLS + storage), L = P + h*w tokens, D embed_dim, N heads,
d head_dim, F = d/4 frequencies per axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.library import custom_op

from dinov3_ref.layers.rope_position_encoding import RopePositionEmbedding

# Added to the score of a token that is not seen. Softmax makes it exactly zero, also in fp16, whose largest
# value it is.
HIDDEN = -65504.0


@custom_op("dinodeploy::rope_table", mutates_args=())
def rope_table(periods: Tensor, h: int, w: int, prefix: int, normalize: str) -> tuple[Tensor, Tensor]:
    """periods [F] -> (sin, cos), each [L, d], for the whole token sequence (docs/spec.md 2.2).

    `normalize` is one of separate, max, min. The first `prefix` rows hold angle zero: the rotation leaves
    prefix tokens unchanged, and no block has to split the sequence. `sin` includes the sign of rotate_half:
    its first half is negated.
    """
    span_h, span_w = {"separate": (h, w), "max": (max(h, w),) * 2, "min": (min(h, w),) * 2}[normalize]
    rows = 2.0 * (torch.arange(0.5, h, dtype=periods.dtype) / span_h) - 1.0
    columns = 2.0 * (torch.arange(0.5, w, dtype=periods.dtype) / span_w) - 1.0
    angles_h = (2 * math.pi * rows)[:, None] / periods
    angles_w = (2 * math.pi * columns)[:, None] / periods
    grid = torch.cat((angles_h[:, None].expand(h, w, -1), angles_w[None].expand(h, w, -1)), dim=-1)
    half = torch.cat((grid.new_zeros(prefix, grid.shape[-1]), grid.flatten(0, 1)))
    sin, cos = half.sin(), half.cos()
    return torch.cat((-sin, sin), dim=-1), torch.cat((cos, cos), dim=-1)


@rope_table.register_fake
def _(periods: Tensor, h: int, w: int, prefix: int, normalize: str) -> tuple[Tensor, Tensor]:
    shape = (prefix + h * w, 4 * periods.shape[0])
    return periods.new_empty(shape), periods.new_empty(shape)


def _rotate(x_BNLd: Tensor, sin_Ld: Tensor, cos_Ld: Tensor) -> Tensor:
    """x * cos + rotate_half(x) * sin; the minus sign of rotate_half is in `sin`."""
    first, second = x_BNLd.chunk(2, dim=-1)
    return x_BNLd * cos_Ld + torch.cat((second, first), dim=-1) * sin_Ld


@custom_op("dinodeploy::rope_attention", mutates_args=())
def rope_attention(
    q: Tensor, k: Tensor, v: Tensor, sin: Tensor | None, cos: Tensor | None, num_heads: int, scale: float
) -> Tensor:
    """Projected q, k, v [B,L,D] and a RoPE table [L,d] (or None) -> attended values [B,L,D].

    `scale` multiplies q only, before the product with k. It is 1.0 when it is folded into q's weights.
    """
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    if sin is not None and cos is not None:
        q, k = _rotate(q, sin, cos), _rotate(k, sin, cos)
    weights = torch.softmax((q * scale) @ k.transpose(-1, -2), dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


@rope_attention.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(q)


@custom_op("dinodeploy::masked_rope_attention", mutates_args=())
def masked_rope_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    sin: Tensor | None,
    cos: Tensor | None,
    num_heads: int,
    scale: float,
) -> Tensor:
    """`rope_attention` in which the first Q tokens see only `visible`, bool [B,Q,L]: [B,L,D] -> [B,L,D]."""
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    if sin is not None and cos is not None:
        q, k = _rotate(q, sin, cos), _rotate(k, sin, cos)
    scores = (q * scale) @ k.transpose(-1, -2)
    first, others = scores.split((visible.shape[1], scores.shape[2] - visible.shape[1]), dim=2)
    first = first + torch.where(visible, 0.0, HIDDEN).unsqueeze(1)
    weights = torch.softmax(torch.cat((first, others), dim=2), dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


@masked_rope_attention.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(q)


@custom_op("dinodeploy::first_row_weights", mutates_args=())
def first_row_weights(
    q: Tensor, k: Tensor, sin: Tensor | None, cos: Tensor | None, num_heads: int, scale: float
) -> Tensor:
    """Attention weights of the first token: q [B,1,D], k [B,L,D], a RoPE table [L,d] or None -> [B,N,1,L].

    The first token is CLS. Its angle is zero, so q is not rotated.
    """
    q, k = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k))
    if sin is not None and cos is not None:
        k = _rotate(k, sin, cos)
    return torch.softmax((q * scale) @ k.transpose(-1, -2), dim=-1)


@first_row_weights.register_fake
def _(q: Tensor, k: Tensor, sin: Any, cos: Any, num_heads: int, scale: float) -> Tensor:
    return q.new_empty((q.shape[0], num_heads, 1, k.shape[1]))


@custom_op("dinodeploy::causal_mask", mutates_args=())
def causal_mask(ids: Tensor) -> Tensor:
    """Token ids [B,L] -> what is added to scores [L,L]: 0, and minus infinity for tokens behind the row's."""
    L = ids.shape[1]
    return torch.full((L, L), -math.inf).triu(1)


@causal_mask.register_fake
def _(ids: Tensor) -> Tensor:
    return torch.empty(ids.shape[1], ids.shape[1], device=ids.device)


@custom_op("dinodeploy::masked_attention", mutates_args=())
def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, num_heads: int, scale: float) -> Tensor:
    """Projected q, k, v [B,L,D] and a mask [L,L] -> attended values [B,L,D]; `scale` as in rope_attention."""
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    weights = torch.softmax((q * scale) @ k.transpose(-1, -2) + mask, dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


@masked_attention.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(q)


class TracedRope(nn.Module):
    """Replaces `RopePositionEmbedding` in the traced model; its table covers the prefix tokens too."""

    periods: Tensor

    def __init__(self, rope: RopePositionEmbedding, prefix: int) -> None:
        super().__init__()
        self.register_buffer("periods", rope.periods)
        self.prefix = prefix
        self.normalize = rope.normalize_coords

    def forward(self, *, H: int, W: int) -> tuple[Tensor, Tensor]:
        """Patch grid H x W -> (sin, cos), each [L,d]."""
        return rope_table(self.periods, H, W, self.prefix, self.normalize)


class TracedAttention(nn.Module):
    """Replaces `SelfAttention`. Three projections instead of qkv and a split: 3-4 % faster on CPUs."""

    def __init__(
        self, dim: int, num_heads: int, scale: float, biases: Sequence[bool], proj_bias: bool
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = scale
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=has_bias) for has_bias in biases)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """x [B,L,D], a RoPE table, (sin, cos) [L,d], and seen tokens, bool [B,Q,L] or None -> [B,L,D]."""
        sin, cos = rope if rope is not None else (None, None)
        q, k, v = self.q(x), self.k(x), self.v(x)
        if visible is None:
            return self.proj(rope_attention(q, k, v, sin, cos, self.num_heads, self.scale))
        return self.proj(masked_rope_attention(q, k, v, visible, sin, cos, self.num_heads, self.scale))

    def attention_weights(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None = None, queries: int | None = None
    ) -> Tensor:
        """x [B,L,D] -> [B,N,1,L], as `SelfAttention.attention_weights` with `queries=1` (the only case)."""
        assert queries == 1
        sin, cos = rope if rope is not None else (None, None)
        q, k = self.q(x), self.k(x)  # of all tokens, so that the graph shares both with the block's attention
        return first_row_weights(q[:, :1], k, sin, cos, self.num_heads, self.scale)


class TracedCausalAttention(TracedAttention):
    """Replaces `CausalSelfAttention`, in the same form."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """x [B,L,D] and a mask [L,L] -> [B,L,D]."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.proj(masked_attention(q, k, v, mask, self.num_heads, self.scale))
