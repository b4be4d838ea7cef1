"""RoPE periods for files without them, and their rounding (docs/spec.md 0 fact 1, 2.2, 3.6).

Official files store the periods rounded to bfloat16, and official features use the rounded values. Hugging
Face and timm drop the buffer and compute exact fp32 values. Both are supported.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dinov3_ref.layers.rope_position_encoding import RopePositionEmbedding
from dinov3_ref.models.config import ViTConfig

PeriodRounding = Literal["bf16", "fp32"]


def rope_periods(config: ViTConfig, rounding: PeriodRounding = "bf16") -> Tensor:
    """Periods [d/4], fp32: exact ("fp32": Hugging Face, timm) or rounded to bfloat16 ("bf16": official)."""
    rope = RopePositionEmbedding(
        config.embed_dim,
        num_heads=config.num_heads,
        base=config.pos_embed_rope_base,
        min_period=config.pos_embed_rope_min_period,
        max_period=config.pos_embed_rope_max_period,
        dtype=torch.float32,
        device="cpu",
    )
    exact = rope.periods.detach().clone()
    return round_to_bf16(exact) if rounding == "bf16" else exact


def round_to_bf16(periods: Tensor) -> Tensor:
    """The nearest bfloat16 values, as fp32."""
    return periods.to(torch.bfloat16).to(torch.float32)


def is_computed(periods: Tensor, config: ViTConfig) -> bool:
    """Whether `rope_periods` gives these periods, rounded or not: then a layout may drop them."""
    exact = rope_periods(config, "fp32")
    return torch.equal(periods, round_to_bf16(exact)) or torch.allclose(periods, exact, rtol=1e-6, atol=0.0)
