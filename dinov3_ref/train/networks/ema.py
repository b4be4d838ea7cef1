"""Exponential moving average of parameters: the teacher follows the student (docs/spec.md 4.8)."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_ema(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """target <- momentum · target + (1 - momentum) · source, for parameters matched by name.

    Momentum 0 copies. Buffers (RoPE periods, bias masks) are constants and do not change.
    """
    sources = dict(source.named_parameters())
    names, parameters = zip(*target.named_parameters(), strict=True)
    torch._foreach_mul_(parameters, momentum)
    torch._foreach_add_(parameters, [sources[name] for name in names], alpha=1 - momentum)
