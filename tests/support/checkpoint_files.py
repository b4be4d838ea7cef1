"""Small checkpoints for tests, and official files in the variants that exist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.checkpoints import Checkpoint, build_model
from dinov3_ref.models.config import ViTConfig
from tests.support.tiny_models import CONFIGS, tiny_config

# Every kind of block, small enough to build quickly. head_dim is the real one: it determines the number of
# heads of a file that has neither periods nor a config.json.
TINY_VITS: dict[str, ViTConfig] = {kind: tiny_config(kind, depth=2) for kind in CONFIGS}


def official_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state as in official files: contiguous tensors, bfloat16 periods."""
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
    """`torch.save` an official file and return `path`.

    change: edits the state in place. prefix: of all keys. under: key of a wrapper that holds the state.
    beside: other entries. legacy: the format of torch before 1.6.
    """
    state = official_state(checkpoint)
    change(state)
    tree: dict[str, Any] = {prefix + key: tensor for key, tensor in state.items()}
    if under is not None:
        tree = {under: tree}
    tree.update(beside or {})
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    return path


def features(checkpoint: Checkpoint, x_BCHW: Tensor) -> Tensor:
    """All normed tokens of the model on `x_BCHW`: [B, 1 + R + P, D], CLS, storage, patches."""
    with torch.no_grad():
        out = build_model(checkpoint).forward_features(x_BCHW)
    parts = (out["x_norm_clstoken"][:, None], out["x_storage_tokens"], out["x_norm_patchtokens"])
    return torch.cat(parts, dim=1)


def same_state(one: Checkpoint, other: Checkpoint, *, but: str | None = None) -> bool:
    """Whether two checkpoints have equal keys and bit-equal values, except for the key `but`."""
    kept = one.state.keys() - {but}
    return one.state.keys() == other.state.keys() and all(
        torch.equal(one.state[key], other.state[key]) for key in kept
    )
