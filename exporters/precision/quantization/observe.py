"""Run the reference over calibration pictures and keep what enters every group of linear layers.

Shapes: B pictures, L tokens, K input channels, n kept rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.models import Backbone
from exporters.precision.quantization.groups import Group

ROWS = 512  # kept per group, from all pictures together


@dataclass
class Observation:
    """What entered one group: `rows` [n,K] of tokens drawn evenly over pictures, `channel_max` [K] of all."""

    rows: Tensor
    channel_max: Tensor


def observe(
    model: Backbone,
    groups: Sequence[Group],
    batches: Iterable[Tensor],
    pictures: int,
    *,
    seed: int = 0,
    seen: Callable[[int], None] = lambda _: None,
) -> dict[str, Observation]:
    """Observations by group path. `batches` [B,3,H,W] are normalised pixels of `pictures` pictures in all.

    Of every picture CLS (of a ConvNeXt's map the first place) is kept, and tokens drawn by `seed`; groups of
    equally many tokens keep the same ones. `seen` is told how many pictures are done.
    """
    each = max(2, -(-ROWS // max(pictures, 1)))
    generator = torch.Generator().manual_seed(seed)
    kept: dict[str, list[Tensor]] = {group.path: [] for group in groups}
    largest: dict[str, Tensor] = {}
    draws: dict[int, Tensor] = {}  # of one batch

    def hook(path: str) -> Any:
        def record(module: Any, inputs: tuple[Tensor, ...]) -> None:
            x_BLK = inputs[0].detach().flatten(1, -2)
            top = x_BLK.abs().amax(dim=(0, 1))
            largest[path] = torch.maximum(largest[path], top) if path in largest else top
            tokens = x_BLK.shape[1]
            if tokens not in draws:
                draws[tokens] = _draw_tokens(tokens, each, generator)
            kept[path].append(x_BLK[:, draws[tokens]].flatten(0, 1).clone())

        return record

    handles = [
        model.get_submodule(group.observed).register_forward_pre_hook(hook(group.path)) for group in groups
    ]
    try:
        with torch.inference_mode():
            for batch in batches:
                draws.clear()
                model(batch)
                seen(len(batch))
    finally:
        for handle in handles:
            handle.remove()
    return {path: Observation(torch.cat(rows), largest[path]) for path, rows in kept.items()}


def _draw_tokens(tokens: int, count: int, generator: torch.Generator) -> Tensor:
    """Indices of `count` of so many tokens, the first among them; storage tokens are drawn like patches."""
    others = torch.randperm(tokens - 1, generator=generator)[: count - 1] + 1
    return torch.cat((torch.zeros(1, dtype=torch.long), others))
