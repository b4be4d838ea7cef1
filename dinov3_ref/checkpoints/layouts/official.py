"""The official layout: flat keys of facebookresearch/dinov3's own state dicts (docs/spec.md 3.1).

Also what the other layouts do with it: translated keys, the fused q, k, v bias and its mask, which removes
k's bias (docs/spec.md 0 fact 2, 2.4), and RoPE periods for files without them (docs/spec.md 0 fact 1, 2.2,
3.6). Official files store the periods rounded to bfloat16, and official features use the rounded values;
Hugging Face and timm drop them and compute exact fp32 values. Both are supported.

Shapes: D embed_dim, d head_dim; bias and bias_mask [3D], thirds in the order q, k, v.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from dinov3_ref.checkpoints.files import MODEL_CONFIG, json_object
from dinov3_ref.checkpoints.tensor_shapes import Shape, expected_shapes
from dinov3_ref.layers.rope_position_encoding import RopePositionEmbedding
from dinov3_ref.models.config import ViTConfig

PERIODS = "rope_embed.periods"
PeriodRounding = Literal["bf16", "fp32"]
_OFFICIAL_KEY = re.compile(
    r"(?:(?P<blocks>blocks)\.(?P<index>\d+)\.)?(?P<stem>.+?)(?P<param>\.weight|\.bias)?"
)


def spell(official_key: str, stems: Mapping[str, str]) -> str:
    """`official_key` in another layout: a stem that is not in `stems` keeps its name.

    A stem is a key without `.weight` or `.bias`, with `{i}` for the block index.
    """
    match = _OFFICIAL_KEY.fullmatch(official_key)
    assert match is not None, official_key
    stem = f"blocks.{{i}}.{match['stem']}" if match["blocks"] else match["stem"]
    return stems.get(stem, stem).replace("{i}", match["index"] or "") + (match["param"] or "")


def effective_bias(state: Mapping[str, Tensor], block: int) -> Tensor | None:
    """bias · mask of one block, [3D], as the model adds it; None without a qkv bias."""
    bias = state.get(f"blocks.{block}.attn.qkv.bias")
    mask = state.get(f"blocks.{block}.attn.qkv.bias_mask")
    if bias is None or mask is None:
        return bias
    return bias * mask.to(bias.dtype)


def has_key_bias(state: Mapping[str, Tensor], config: ViTConfig) -> bool:
    """Whether any block adds a nonzero bias to k; no released model does."""
    thirds = (effective_bias(state, block) for block in range(config.depth))
    return any(bias is not None and bool(bias.chunk(3)[1].any()) for bias in thirds)


def has_qkv_bias(state: Mapping[str, Tensor], config: ViTConfig) -> bool:
    """Whether any block adds a nonzero bias to q, k or v; released biases are all zero."""
    biases = (effective_bias(state, block) for block in range(config.depth))
    return any(bias is not None and bool(bias.any()) for bias in biases)


def key_mask(embed_dim: int) -> Tensor:
    """The mask [3D]: 1 for q and v, 0 for k."""
    mask = torch.ones(3, embed_dim)
    mask[1] = 0.0
    return mask.flatten()


def fuse_bias(q: Tensor, k: Tensor | None, v: Tensor) -> Tensor:
    """[q, k or zeros, v] as one bias [3D]."""
    return torch.cat((q, torch.zeros_like(q) if k is None else k, v))


def rope_periods(config: ViTConfig, rounding: PeriodRounding = "bf16") -> Tensor:
    """Periods [d/4], fp32: exact ("fp32": Hugging Face, timm) or rounded to bfloat16 ("bf16": official)."""
    rope = RopePositionEmbedding(
        config.embed_dim,
        num_heads=config.num_heads,
        base=config.pos_embed_rope_base,
        min_period=config.pos_embed_rope_min_period,
        max_period=config.pos_embed_rope_max_period,
        dtype=torch.float32,
        device="cpu",
    )
    exact = rope.periods.detach().clone()
    return round_to_bf16(exact) if rounding == "bf16" else exact


def round_to_bf16(periods: Tensor) -> Tensor:
    """The nearest bfloat16 values, as fp32."""
    return periods.to(torch.bfloat16).to(torch.float32)


def is_computed(periods: Tensor, config: ViTConfig) -> bool:
    """Whether `rope_periods` gives these periods, rounded or not: then a layout may drop them."""
    exact = rope_periods(config, "fp32")
    return torch.equal(periods, round_to_bf16(exact)) or torch.allclose(periods, exact, rtol=1e-6, atol=0.0)


def is_derived(official_key: str) -> bool:
    """Whether only official files have a tensor: it is computed, or inference does not use it."""
    return (
        official_key == PERIODS
        or official_key.endswith("bias_mask")
        or official_key.startswith("local_cls_norm")
    )


class OfficialLayout:
    """The official key names, to which all other layouts are converted; base class of those of ViTs."""

    name = "official"
    block_prefix = "blocks."  # before a block's index

    def recognises(self, keys: Collection[str]) -> bool:
        """Whether the keys are in this layout."""
        return "storage_tokens" in keys or any(key.endswith("attn.qkv.weight") for key in keys)

    def modernise(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors with the layout's current names; older files may use others."""
        return {self.modern(key): tensor for key, tensor in tensors.items()}

    def spell(self, official_key: str) -> str:
        """This layout's name of a tensor that it stores unchanged."""
        return official_key

    def modern(self, key: str) -> str:
        """The current name of a tensor that has an older one."""
        return key

    def places(self, official_key: str) -> dict[str, int | None]:
        """This layout's names of an official tensor -> which third of its rows each has; None: all."""
        return {self.spell(official_key): None}

    def biases(self, keys: Collection[str]) -> tuple[bool, bool]:
        """(qkv_bias, mask_k_bias) of a file with these keys."""
        masked = any(key.endswith("attn.qkv.bias_mask") for key in keys)
        biased = masked or any(key.endswith("attn.qkv.bias") for key in keys)
        return biased, masked or not biased

    def hints(self, sidecars: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Fields of `ViTConfig` from the JSON files. Raises `CheckpointError` for another kind of model."""
        return dict(json_object(sidecars.get("config.json", {}), MODEL_CONFIG))

    def shapes(self, config: ViTConfig, keys: Collection[str] = ()) -> dict[str, Shape]:
        """This layout's key -> shape of every tensor; optional tensors only if they are in `keys`."""
        shapes = expected_shapes(config)
        if PERIODS not in keys:  # optional: some files lack it, and it can be computed
            del shapes[PERIODS]
        return shapes

    def to_official(self, tensors: Mapping[str, Tensor], config: ViTConfig) -> Mapping[str, Tensor]:
        """Tensors with official names; those that this layout cannot store are missing."""
        return dict(tensors)

    def from_official(self, state: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
        """Tensors with this layout's names. Raises `CheckpointError` if it cannot store the model."""
        return dict(state)
