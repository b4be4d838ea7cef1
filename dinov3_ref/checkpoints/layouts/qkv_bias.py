"""The fused q, k, v bias and its mask, which removes k's bias (docs/spec.md 0 fact 2, 2.4).

Shapes: D embed_dim; bias and bias_mask [3D], thirds in the order q, k, v.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dinov3_ref.models.config import ViTConfig


def effective_bias(state: Mapping[str, Tensor], block: int) -> Tensor | None:
    """bias · mask of one block, [3D], as the model adds it; None without a qkv bias."""
    bias = state.get(f"blocks.{block}.attn.qkv.bias")
    mask = state.get(f"blocks.{block}.attn.qkv.bias_mask")
    if bias is None or mask is None:
        return bias
    return bias * mask.to(bias.dtype)


def has_key_bias(state: Mapping[str, Tensor], config: ViTConfig) -> bool:
    """Whether any block adds a nonzero bias to k; no released model does."""
    thirds = (effective_bias(state, block) for block in range(config.depth))
    return any(bias is not None and bool(bias.chunk(3)[1].any()) for bias in thirds)


def has_qkv_bias(state: Mapping[str, Tensor], config: ViTConfig) -> bool:
    """Whether any block adds a nonzero bias to q, k or v; released biases are all zero."""
    biases = (effective_bias(state, block) for block in range(config.depth))
    return any(bias is not None and bool(bias.any()) for bias in biases)


def key_mask(embed_dim: int) -> Tensor:
    """The mask [3D]: 1 for q and v, 0 for k."""
    mask = torch.ones(3, embed_dim)
    mask[1] = 0.0
    return mask.flatten()


def fuse_bias(q: Tensor, k: Tensor | None, v: Tensor) -> Tensor:
    """[q, k or zeros, v] as one bias [3D]."""
    return torch.cat((q, torch.zeros_like(q) if k is None else k, v))
