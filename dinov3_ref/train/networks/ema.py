"""Exponential moving average of parameters: the teacher follows the student (docs/spec.md 4.8)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_ema(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """target <- momentum · target + (1 - momentum) · source, for parameters matched by name.

    Momentum 0 copies. Buffers (RoPE periods, bias masks) are constants and do not change.
    """
    sources = dict(source.named_parameters())
    into, from_ = _paired((parameter, sources[name]) for name, parameter in target.named_parameters())
    torch._foreach_mul_(into, momentum)
    torch._foreach_add_(into, from_, alpha=1 - momentum)


def _paired(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    into, from_ = zip(*pairs, strict=True)
    return list(into), list(from_)
