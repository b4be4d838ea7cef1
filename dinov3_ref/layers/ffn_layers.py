"""Feed-forward layers of a block: MLP and SwiGLU (docs/spec.md 2.10).

Shapes: x [..., D]; F hidden width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.layers.attention import TokenwiseListMixin


class Mlp(TokenwiseListMixin):
    """fc2(gelu(fc1(x))) with the exact (erf) GELU (arXiv:1606.08415)."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        drop: float = 0.0,
        bias: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_features or in_features
        self.fc1 = nn.Linear(in_features, hidden, bias=bias, device=device)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden, out_features or in_features, bias=bias, device=device)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


def swiglu_width(hidden_features: int, align_to: int) -> int:
    """Two thirds of the MLP width, rounded up to a multiple of `align_to` (Shazeer, arXiv:2002.05202)."""
    width = int(hidden_features * 2 / 3)
    return width + (-width % align_to)


class SwiGLUFFN(TokenwiseListMixin):
    """w3(silu(w1(x)) · w2(x)) (arXiv:2002.05202); `act_layer` and `drop` are unused, as published."""

    gate: Callable[[Tensor], Tensor] = staticmethod(F.silu)  # another one in a file that names it

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: Callable[[], nn.Module] | None = None,
        drop: float = 0.0,
        bias: bool = True,
        align_to: int = 8,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        width = swiglu_width(hidden_features or in_features, align_to)
        self.w1 = nn.Linear(in_features, width, bias=bias, device=device)
        self.w2 = nn.Linear(in_features, width, bias=bias, device=device)
        self.w3 = nn.Linear(width, out_features or in_features, bias=bias, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.gate(self.w1(x)) * self.w2(x))
