"""Join token batches of different sizes into one matrix product (docs/spec.md 2.5, 2.8).

In training, global and local crops of different sizes go through the model together. Joining their tokens
gives one large product instead of several small ones.

Shapes: B batch, N tokens, D channels; B and N may differ between entries, D may not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def join_tokens(x_list: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """List of [B_i, N_i, D] -> ([sum of B_i·N_i, D], [(B_i, N_i), …])."""
    sizes = [(x.shape[0], x.shape[1]) for x in x_list]
    return torch.cat([x.flatten(0, 1) for x in x_list]), sizes


def split_tokens(flat: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Inverse of `join_tokens`: [sum of B_i·N_i, D] -> list of [B_i, N_i, D]."""
    parts = flat.split([batch * tokens for batch, tokens in sizes])
    return [part.unflatten(0, size) for part, size in zip(parts, sizes, strict=True)]


class TokenwiseListMixin(nn.Module):
    """Adds `forward_list` to a module that works on each token separately."""

    def forward_list(self, x_list: Sequence[Tensor]) -> list[Tensor]:
        flat, sizes = join_tokens(x_list)
        return split_tokens(self(flat), sizes)
