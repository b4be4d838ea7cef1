"""What 8 bits make of a tensor, computed in fp32: the arithmetic that the graphs do, for choosing among them.

Shapes: n rows, K input channels, N output channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-12  # below it a row is zeros


@dataclass(frozen=True)
class Format:
    """An 8-bit number format: its largest value, and how a value rounds to it."""

    name: str
    largest: float

    def round(self, x: Tensor) -> Tensor:
        """To the nearest representable value of [-largest, largest]; ties to even."""
        x = x.clamp(-self.largest, self.largest)
        return x.round() if self.name == "int8" else x.to(torch.float8_e4m3fn).to(x.dtype)


INT8 = Format("int8", 127.0)
FP8 = Format("fp8", 448.0)  # E4M3
FORMATS = {"int8": INT8, "fp8": FP8}
ROW_LEVELS = 63.0  # of the CPU dialect's activations, see write.py


def weight_scale(weight_NK: Tensor, form: Format) -> Tensor:
    """[N,1], one an output channel."""
    return weight_NK.abs().amax(dim=1, keepdim=True).clamp_min(TINY) / form.largest


def weight_values(weight_NK: Tensor, form: Format) -> Tensor:
    """[N,K] with weight ≈ values * scale."""
    return form.round(weight_NK / weight_scale(weight_NK, form))


def fake_weight(weight_NK: Tensor, form: Format) -> Tensor:
    """The weight as 8 bits keep it."""
    scale = weight_scale(weight_NK, form)
    return form.round(weight_NK / scale) * scale


def fake_static(x_nK: Tensor, largest: float, form: Format) -> Tensor:
    """Activations with one scale for all; what is beyond `largest` is clipped."""
    scale = largest / form.largest
    return form.round(x_nK / scale) * scale


def fake_rows(x_nK: Tensor) -> Tensor:
    """Activations with a scale for each row, in the CPU dialect's levels."""
    scale = x_nK.abs().amax(dim=-1, keepdim=True).clamp_min(TINY) / ROW_LEVELS
    return (x_nK / scale).round() * scale


def relative_error(got_nN: Tensor, wanted_nN: Tensor) -> float:
    """Root mean square over rows of each row's relative error, the worse of two ways to look at a row.

    As it is, so that a massive channel may not be clipped; and with every channel in units of its own size,
    so that one (an attention sink's key) does not drown the others.
    """
    unit = wanted_nN.square().mean(dim=0).sqrt().clamp_min(TINY)
    difference = got_nN - wanted_nN
    return max(_row_error(difference, wanted_nN), _row_error(difference / unit, wanted_nN / unit))


def _row_error(difference_nN: Tensor, wanted_nN: Tensor) -> float:
    size = wanted_nN.norm(dim=1).clamp_min(TINY)
    return float((difference_nN.norm(dim=1) / size).square().mean().sqrt())
