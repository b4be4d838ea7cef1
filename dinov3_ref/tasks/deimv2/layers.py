"""Small layers of the detector: convolution, MLP, RMSNorm, self-attention.

Module names are those of transformers' `Deimv2ForObjectDetection`, so its tensors load unchanged.

Shapes: B batch, L tokens, D width, N heads, d = D/N, C channels, h w map.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

RMS_EPS = 1e-6

# names in config.json -> layer
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
}


class Conv(nn.Module):
    """Convolution and activation: [B,C,h,w] -> [B,C',h',w'], h' = h / stride, rounded up.

    The BatchNorm that follows it in the file is part of its weights (`fold.py`).
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups)
        self.activation = nn.Identity() if activation is None else ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv(x))


class MLP(nn.Module):
    """`depth` linear layers with an activation between them: [...,D] -> [...,D']."""

    def __init__(self, inside: int, hidden: int, outside: int, depth: int, activation: str = "relu") -> None:
        super().__init__()
        widths = [inside, *[hidden] * (depth - 1), outside]
        self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last dimension (arXiv:1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + RMS_EPS))


class SelfAttention(nn.Module):
    """Attention over all tokens [B,L,D]; positions are added to queries and keys, not to values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        placed = x if positions is None else x + positions
        q, k, v = (self._split(t) for t in (self.q_proj(placed), self.k_proj(placed), self.v_proj(x)))
        weights = torch.softmax((q * self.scale) @ k.transpose(-1, -2), dim=-1)
        return self.o_proj((weights @ v).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """[B,L,D] -> [B,N,L,d]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
