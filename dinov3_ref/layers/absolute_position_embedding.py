"""Learned absolute position embedding instead of RoPE.

Source: docs/development/seed.md S39; Dosovitskiy et al., arXiv:2010.11929, eq. 1.

As a model's `rope_embed` it is added to the patches once, before the first block, and no block applies RoPE:

    model.rope_embed = AbsolutePositionEmbedding(num_patches=196, embed_dim=model.embed_dim)

This applies to any module whose `forward` does not take `H` and `W`, a user's own class included.

Shapes: B batch, P patches, D embed_dim.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from dinov3_ref.errors import reason_of


class AbsolutePositionEmbedding(nn.Module):
    """x [B,P,D] -> x + pos_embed [1,P,D], for exactly the P it was made for."""

    def __init__(self, num_patches: int, embed_dim: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, num_patches, embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pos_embed


def makes_rope_table(positions: nn.Module) -> bool:
    """Whether a `rope_embed` makes a RoPE table (`forward(*, H, W)`) instead of adding to the patches."""
    return {"H", "W"} <= set(inspect.signature(positions.forward).parameters)


def add_positions(positions: nn.Module, x_BPD: Tensor) -> Tensor:
    """Patches [B,P,D] with positions added. Raises ValueError if the module was built for another P."""
    name, P = type(positions).__name__, x_BPD.shape[1]
    fix = "give images of the size it was built for, interpolate in its forward, or keep RoPE"
    try:
        placed: Tensor = positions(x_BPD)
    except RuntimeError as error:
        raise ValueError(f"{name} cannot place {P} patches ({reason_of(error)}); {fix}") from error
    if placed.shape != x_BPD.shape:
        raise ValueError(
            f"{name} made {list(placed.shape)} of patches {list(x_BPD.shape)}; wanted the same shape: {fix}"
        )
    return placed
