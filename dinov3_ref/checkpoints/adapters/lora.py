"""The tensors of one adapted layer, and the merged weight: LoRA and DoRA, linear layers and convolutions.

    LoRA    W + s B A                       arXiv:2106.09685, eq. 3
    DoRA    m (W + s B A) / |W + s B A|     arXiv:2402.09353, eq. 5; the norm is over each output's weights

Shapes: O outputs, I inputs, r rank, k kernel size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LoraLayer:
    """A [r,I] and B [O,r], or of a convolution A [r,I,k,k] and B [O,r,1,1].

    magnitude: of DoRA, O numbers. bias [O]: of B, added to the layer's bias.
    """

    a: Tensor
    b: Tensor
    scaling: float
    magnitude: Tensor | None = None
    bias: Tensor | None = None

    def problem(self, shape: Sequence[int]) -> str:
        """Why the layer does not fit a weight of this shape, or nothing."""
        a, b = self.a.flatten(1).shape, self.b.flatten(1).shape
        outputs, inputs = shape[0], math.prod(shape[1:])
        sizes = [tensor.numel() for tensor in (self.magnitude, self.bias) if tensor is not None]
        if a[0] == b[1] and (b[0], a[1]) == (outputs, inputs) and all(size == outputs for size in sizes):
            return ""
        return f"A {list(self.a.shape)} and B {list(self.b.shape)} do not fit a weight {list(shape)}"

    def merged(self, weight: Tensor) -> Tensor:
        """weight [O,I] or [O,I,k,k] -> the same shape, in float64."""
        delta = self.b.double().flatten(1) @ self.a.double().flatten(1)
        changed = weight.double() + delta.reshape(weight.shape) * self.scaling
        if self.magnitude is None:
            return changed
        lengths = torch.linalg.vector_norm(changed.flatten(1), dim=1)
        factors = self.magnitude.double().flatten() / lengths
        return changed * factors.reshape(-1, *[1] * (changed.dim() - 1))

    def merged_bias(self, bias: Tensor) -> Tensor:
        """bias [O] -> [O], in float64."""
        assert self.bias is not None
        return bias.double() + self.bias.double() * self.scaling
