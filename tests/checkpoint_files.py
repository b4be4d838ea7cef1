"""Small checkpoints for tests, and the official files in the variants that are met in the wild."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.checkpoints import Checkpoint
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.models.released import ARCHITECTURES

# Every kind of block there is, small enough to build in no time. Head width is the real one: where a file has
# neither periods nor a config.json, it is what the number of heads is told from.
TWINS: dict[str, ViTConfig] = {
    "mlp": ViTConfig(128, 2, 2),
    "swiglu": ViTConfig(128, 2, 2, ffn_layer="swiglu", ffn_ratio=6.0),
    "seven_b": replace(ARCHITECTURES["vit_7b"], embed_dim=256, depth=2, num_heads=2),
}


def official_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state as official files hold it: contiguous tensors, bfloat16 periods."""
    state = {key: tensor.clone() for key, tensor in checkpoint.state.items()}
    state["rope_embed.periods"] = state["rope_embed.periods"].to(torch.bfloat16)
    return state


def write_official(
    path: Path,
    checkpoint: Checkpoint,
    *,
    prefix: str = "",
    under: str | None = None,
    beside: dict[str, Any] | None = None,
    change: Callable[[dict[str, Tensor]], object] = lambda state: None,
    legacy: bool = False,
) -> Path:
    """`torch.save` an official file: `change`d in place, keys `prefix`ed, `under` a wrapper with things `beside`.

    `legacy` writes the format of torch before 1.6. Returns `path`.
    """
    state = official_state(checkpoint)
    change(state)
    tree: dict[str, Any] = {prefix + key: tensor for key, tensor in state.items()}
    if under is not None:
        tree = {under: tree}
    tree.update(beside or {})
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    return path
