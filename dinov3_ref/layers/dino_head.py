"""Projection head of DINO and iBOT: features to prototype scores (docs/spec.md 2.12)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _mlp(nlayers: int, in_dim: int, hidden: int, out: int, use_bn: bool, bias: bool) -> nn.Module:
    """`nlayers` linear layers with GELU (and BatchNorm) between them."""
    if nlayers == 1:
        return nn.Linear(in_dim, out, bias=bias)
    widths = [in_dim] + [hidden] * (nlayers - 1)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers.append(nn.Linear(before, after, bias=bias))
        if use_bn:
            layers.append(nn.BatchNorm1d(after))
        layers.append(nn.GELU())
    return nn.Sequential(*layers, nn.Linear(hidden, out, bias=bias))


class DINOHead(nn.Module):
    """x [..., in_dim] -> prototype scores [..., out_dim].

    The MLP's output is L2-normalised before `last_layer`, a Linear without bias and without weight
    normalisation (docs/spec.md 0, fact 10).
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        use_bn: bool = False,
        nlayers: int = 3,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        mlp_bias: bool = True,
    ) -> None:
        super().__init__()
        self.mlp = _mlp(max(nlayers, 1), in_dim, hidden_dim, bottleneck_dim, use_bn, mlp_bias)
        self.last_layer = nn.Linear(bottleneck_dim, out_dim, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise every Linear with a truncated normal of std 0.02, biases with 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, no_last_layer: bool = False, only_last_layer: bool = False) -> Tensor:
        """x [..., in_dim] -> scores [..., out_dim].

        With `no_last_layer`, returns the normalised features [..., bottleneck_dim]; with `only_last_layer`, x
        is such features.
        """
        if not only_last_layer:
            x = self.mlp(x)  # under autocast the dtype changes here, and eps depends on it
            x = F.normalize(x, dim=-1, p=2, eps=1e-6 if x.dtype == torch.float16 else 1e-12)
        return x if no_last_layer else self.last_layer(x)
