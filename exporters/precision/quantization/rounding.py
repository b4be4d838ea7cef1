"""Simulate 8-bit rounding in fp32, with the arithmetic of the graphs, to compare quantization choices.

Symmetric quantization: x ≈ round(x / s) · s with s = max|x| / largest (arXiv:2106.08295, section 2.2). E4M3:
arXiv:2209.05433, table 1.

Shapes: T tokens, K input channels, N output channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-12  # smaller magnitudes count as zero: avoids dividing by zero


@dataclass(frozen=True)
class Format:
    """An 8-bit number format: its largest value and its rounding."""

    name: str
    largest: float

    def round(self, x: Tensor) -> Tensor:
        """Nearest representable value in [-largest, largest]; ties to even."""
        x = x.clamp(-self.largest, self.largest)
        return x.round() if self.name == "int8" else x.to(torch.float8_e4m3fn).to(x.dtype)


INT8 = Format("int8", 127.0)
FP8 = Format("fp8", 448.0)  # E4M3
FORMATS = {"int8": INT8, "fp8": FP8}


@dataclass(frozen=True)
class Levels:
    """The u8 levels of activations in a graph for CPUs: `middle` is zero, `middle` ± `largest` the ends."""

    largest: float
    middle: int


# CPUs without VNNI add pairs of u8·s8 products in 16 bits (VPMADDUBSW) and saturate: 2·127·127 fits, so 127
# levels give the same integers on every CPU. With VNNI (VPDPBUSD) sums have 32 bits: 255 levels are right.
PORTABLE = Levels(63.0, 64)
VNNI = Levels(127.0, 128)


def weight_scale(weight_NK: Tensor, form: Format) -> Tensor:
    """Scales [N,1], one per output channel."""
    return weight_NK.abs().amax(dim=1, keepdim=True).clamp_min(TINY) / form.largest


def weight_values(weight_NK: Tensor, form: Format) -> Tensor:
    """[N,K] with weight ≈ values * scale."""
    return form.round(weight_NK / weight_scale(weight_NK, form))


def fake_weight(weight_NK: Tensor, form: Format) -> Tensor:
    """The weight [N,K] rounded to 8 bits and back."""
    scale = weight_scale(weight_NK, form)
    return form.round(weight_NK / scale) * scale


def fake_static(x_TK: Tensor, largest: float, form: Format) -> Tensor:
    """Activations [T,K] rounded with one scale for all; values beyond ±`largest` are clipped."""
    scale = largest / form.largest
    return form.round(x_TK / scale) * scale


def fake_per_token(x_TK: Tensor, levels: Levels) -> Tensor:
    """Activations [T,K] rounded with a scale per token."""
    scale = x_TK.abs().amax(dim=-1, keepdim=True).clamp_min(TINY) / levels.largest
    return (x_TK / scale).round() * scale


def relative_error(got_TN: Tensor, wanted_TN: Tensor) -> float:
    """Root mean square over tokens of ‖got - wanted‖ / ‖wanted‖; the larger of two measures.

    One on the outputs as they are, so that clipping a massive channel counts. One with every channel divided
    by its own RMS, so that one large channel (an attention sink's key) does not hide the others.
    """
    unit = wanted_TN.square().mean(dim=0).sqrt().clamp_min(TINY)
    difference = got_TN - wanted_TN
    return max(_token_error(difference, wanted_TN), _token_error(difference / unit, wanted_TN / unit))


def _token_error(difference_TN: Tensor, wanted_TN: Tensor) -> float:
    size = wanted_TN.norm(dim=1).clamp_min(TINY)
    return float((difference_TN.norm(dim=1) / size).square().mean().sqrt())
