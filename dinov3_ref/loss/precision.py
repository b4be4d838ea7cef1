"""Losses are computed in fp32 or fp64, also inside autocast."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """[...] in fp16 or bf16 -> [...] in fp32; fp32 and fp64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def no_autocast(x: Tensor) -> torch.autocast:
    """Context that turns autocast off on the device of x."""
    return torch.autocast(x.device.type, enabled=False)
