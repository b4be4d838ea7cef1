"""Add to a model the parts that only the checkpoint has, on `load_state_dict` (docs/spec.md 8.1).

`vit_base()` has the class defaults: no storage tokens, no LayerScale, no masked k bias, LayerNorm eps 1e-6,
RoPE in bfloat16. Every released file has all of these parts, eps 1e-5 and RoPE in float32. So loading one
with `strict=False` would succeed and silently give other features, and strict loading would fail. Instead the
model gets the missing parts. Existing parameters stay the same objects, so an optimizer that holds them still
works.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.errors import CheckpointWarning
from dinov3_ref.layers.attention import LinearKMaskedBias
from dinov3_ref.layers.layer_scale import LayerScale
from dinov3_ref.layers.rope_position_encoding import RopePositionEmbedding

NAMED_KEYS = 3  # keys named in a warning; the others are counted
RELEASED_EPS = 1e-5  # of "layernormbf16" (docs/spec.md 0, fact 5)
UNTIED_NORMS = {"cls_norm": "untie_cls_and_patch_norms", "local_cls_norm": "untie_global_and_local_cls_norm"}


def adopt_details(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Add to `model` the optional parts that `state` has, with a warning; does nothing if they match.

    `state` must have every tensor of the model in its shape. Otherwise nothing is added, and torch refuses
    the state or `warn_of_gaps` reports it.
    """
    own = model.state_dict()
    extra = state.keys() - own.keys()
    whole = all(isinstance(t := state.get(key), Tensor) and t.shape == own[key].shape for key in own)
    if not extra or not whole or not extra <= _detail_keys(len(model.blocks), state):  # type: ignore[arg-type]
        return
    adopted = [*_adopt_tokens(model, state), *_adopt_in_blocks(model, state), *_adopt_norms(model, state)]
    warnings.warn(
        f"this checkpoint has {', '.join(adopted)}, which {type(model).__name__} was built without: the "
        "model now has them. dinov3_ref.checkpoints.load_checkpoint and build_model follow the file",
        CheckpointWarning,
        stacklevel=3,
    )


def warn_of_gaps(name: str, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Warn of the tensors that a load with `strict=False` skipped."""
    words = {"left at their initial values": missing, "left out": unexpected}
    parts = [f"{len(keys)} tensors {what}: {_some(keys)}" for what, keys in words.items() if keys]
    if parts:
        warnings.warn(
            f"{name} is NOT the checkpoint's model: {'; '.join(parts)}. Its features will differ; "
            "load with dinov3_ref.checkpoints.load_checkpoint, or build the model that the file describes",
            CheckpointWarning,
            stacklevel=3,
        )


def _some(keys: Sequence[str]) -> str:
    more = len(keys) - NAMED_KEYS
    return ", ".join(keys[:NAMED_KEYS]) + (f" and {more} more" if more > 0 else "")


def _detail_keys(depth: int, state: Mapping[str, Tensor]) -> set[str]:
    """Keys that only some DINOv3 models have; those inside blocks only if every block has them."""
    per_block = ("ls1.gamma", "ls2.gamma", "attn.qkv.bias_mask")
    keys = {"storage_tokens"} | {f"{norm}.{kind}" for norm in UNTIED_NORMS for kind in ("weight", "bias")}
    for stem in per_block:
        in_blocks = {f"blocks.{index}.{stem}" for index in range(depth)}
        if in_blocks <= state.keys():
            keys |= in_blocks
    return keys


def _adopt_tokens(model: Any, state: Mapping[str, Tensor]) -> list[str]:
    if "storage_tokens" not in state or model.n_storage_tokens:
        return []
    model.storage_tokens = nn.Parameter(torch.empty_like(state["storage_tokens"], device=_device(model)))
    model.n_storage_tokens = model.storage_tokens.shape[1]
    return [f"{model.n_storage_tokens} storage tokens"]


def _adopt_in_blocks(model: Any, state: Mapping[str, Tensor]) -> list[str]:
    found: dict[str, None] = {}  # an ordered set
    for index, block in enumerate(model.blocks):
        for name in ("ls1", "ls2"):
            if f"blocks.{index}.{name}.gamma" in state and isinstance(getattr(block, name), nn.Identity):
                setattr(block, name, LayerScale(model.embed_dim, device=_device(model)))
                found["LayerScale"] = None
        qkv = block.attn.qkv
        if f"blocks.{index}.attn.qkv.bias_mask" in state and type(qkv) is nn.Linear and qkv.bias is not None:
            masked = LinearKMaskedBias(qkv.in_features, qkv.out_features, device=_device(model))
            masked.weight, masked.bias = qkv.weight, qkv.bias
            block.attn.qkv = masked
            found["a masked k bias"] = None
    return list(found)


def _adopt_norms(model: Any, state: Mapping[str, Tensor]) -> list[str]:
    """Add untied norms; set what released models have without a tensor: LayerNorm eps, RoPE in fp32."""
    found = []
    for name, option in UNTIED_NORMS.items():
        if f"{name}.weight" in state and getattr(model, name) is None:
            setattr(model, name, nn.LayerNorm(model.embed_dim, eps=model.norm.eps, device=_device(model)))
            setattr(model, option, True)
            found.append(name)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    released = "storage_tokens" in state and "blocks.0.ls1.gamma" in state
    if released and any(norm.eps != RELEASED_EPS for norm in norms):
        for norm in norms:
            norm.eps = RELEASED_EPS
        found.append(f"LayerNorm eps {RELEASED_EPS:g}")
    rope = model.rope_embed
    if released and isinstance(rope, RopePositionEmbedding) and rope.dtype != torch.float32:
        rope.dtype = torch.float32
        rope.periods = rope.periods.float()
        found.append("RoPE in float32")
    return found


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
