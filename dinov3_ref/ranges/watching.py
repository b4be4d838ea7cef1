"""Building blocks for recording: collected sites, and hooks that accept tensors and lists of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.ranges.ranges import Gains, Site
from dinov3_ref.ranges.running import largest

Handle = torch.utils.hooks.RemovableHandle


class Sites:
    """Sites of one part of the network, in the order of first use."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self._seen: dict[tuple[str, str], float] = {}

    def see(self, name: str, role: str, x: Tensor | float) -> None:
        value = largest(x) if isinstance(x, Tensor) else x
        self._seen[name, role] = max(self._seen.get((name, role), 0.0), value)

    def result(self) -> tuple[Site, ...]:
        return tuple(Site(self.prefix + name, role, value) for (name, role), value in self._seen.items())

    def largest_of(self, *roles: str) -> float | None:
        return max((value for (_, role), value in self._seen.items() if role in roles), default=None)


def gains_of(gamma: Tensor) -> Gains:
    """LayerScale's gains [D]."""
    size = gamma.detach().abs()
    return Gains(float(size.min()), float(size.median()), float(size.max()))


def on_output(module: nn.Module, see: Callable[[Tensor], None]) -> Handle:
    """Call `see` with every output tensor of a module."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in _tensors(output):
            see(tensor)

    return module.register_forward_hook(hook)


def on_input(module: nn.Module, see: Callable[[Tensor], None]) -> Handle:
    """Call `see` with every tensor of a module's first input."""

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for tensor in _tensors(inputs[0]):
            see(tensor)

    return module.register_forward_pre_hook(hook)


def _tensors(value: Any) -> Iterable[Tensor]:
    """Blocks take and return lists of batches, other layers tensors."""
    return [value] if isinstance(value, Tensor) else value
