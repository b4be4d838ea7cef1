"""The precision losses are computed in: fp32 at least, whatever autocast says around them."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """fp16 and bf16 become fp32; fp32 and fp64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def no_autocast(x: Tensor) -> torch.autocast:
    """Context in which products on x's device keep the type of their operands."""
    return torch.autocast(x.device.type, enabled=False)
