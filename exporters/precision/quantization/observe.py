"""Run the reference over calibration images and record the inputs of every group of linear layers.

Shapes: B images, L tokens, K input channels, T kept tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.models import Backbone
from exporters.precision.quantization.groups import Group

KEPT_TOKENS = 512  # per group, from all images together


@dataclass
class Observation:
    """Inputs of one group: `tokens` [T,K], as many from each image, and `channel_max` [K] over all."""

    tokens: Tensor
    channel_max: Tensor


def observe(
    model: Backbone,
    groups: Sequence[Group],
    batches: Iterable[Tensor],
    images: int,
    *,
    seed: int = 0,
    seen: Callable[[int], None] = lambda _: None,
) -> dict[str, Observation]:
    """Observations by group path. `batches` [B,3,H,W] are normalised pixels of `images` images in total.

    Keeps CLS of every image (in a ConvNeXt the first position of the map) and random tokens drawn with
    `seed`; groups with the same number of tokens keep the same ones. `seen` is called with the number of
    images in a finished batch.
    """
    each = max(2, -(-KEPT_TOKENS // max(images, 1)))
    generator = torch.Generator().manual_seed(seed)
    kept: dict[str, list[Tensor]] = {group.path: [] for group in groups}
    largest: dict[str, Tensor] = {}
    draws: dict[int, Tensor] = {}  # number of tokens -> kept indices, for one batch

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
    return {path: Observation(torch.cat(tokens), largest[path]) for path, tokens in kept.items()}


def _draw_tokens(tokens: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` token indices: the first token, and random ones; storage tokens are drawn like patches."""
    others = torch.randperm(tokens - 1, generator=generator)[: count - 1] + 1
    return torch.cat((torch.zeros(1, dtype=torch.long), others))
