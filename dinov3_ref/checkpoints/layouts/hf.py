"""The Hugging Face layout of DINOv3 ViTs (transformers' `DINOv3ViTModel`; docs/spec.md 3.3).

q, k and v are separate and k has no bias; RoPE periods, the bias mask and `local_cls_norm` are dropped.

Shapes: D embed_dim; qkv [3D, D], rows in the order q, k, v.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.checkpoints.checkpoint import LazyTensors
from dinov3_ref.checkpoints.files import json_number
from dinov3_ref.checkpoints.layouts.official import (
    OfficialLayout,
    effective_bias,
    fuse_bias,
    has_key_bias,
    is_derived,
    spell,
)
from dinov3_ref.checkpoints.tensor_shapes import Shape, expected_shapes
from dinov3_ref.errors import CheckpointError, ForeignCheckpoint
from dinov3_ref.models.config import ViTConfig

STEMS: dict[str, str] = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "storage_tokens": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings",
    "rope_embed.periods": "rope_embeddings.periods",  # the first conversions only
    "blocks.{i}.norm1": "layer.{i}.norm1",
    "blocks.{i}.norm2": "layer.{i}.norm2",
    "blocks.{i}.attn.proj": "layer.{i}.attention.o_proj",
    "blocks.{i}.ls1.gamma": "layer.{i}.layer_scale1.lambda1",
    "blocks.{i}.ls2.gamma": "layer.{i}.layer_scale2.lambda1",
    "blocks.{i}.mlp.fc1": "layer.{i}.mlp.up_proj",
    "blocks.{i}.mlp.fc2": "layer.{i}.mlp.down_proj",
    "blocks.{i}.mlp.w1": "layer.{i}.mlp.gate_proj",
    "blocks.{i}.mlp.w2": "layer.{i}.mlp.up_proj",
    "blocks.{i}.mlp.w3": "layer.{i}.mlp.down_proj",
}

# Names in older files and in a model in memory -> names on the hub.
OLDER_NAMES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^(?:model|encoder)\.layer\."), "layer."),
    (re.compile(r"\.patch_embeddings\.proj\."), ".patch_embeddings."),
    (re.compile(r"\.attention\.query\."), ".attention.q_proj."),
    (re.compile(r"\.attention\.key\."), ".attention.k_proj."),
    (re.compile(r"\.attention\.value\."), ".attention.v_proj."),
)
DERIVED = "rope_embeddings.inv_freq"  # 1/period; recomputed by every reader

# layer_norm_eps -> name of the norm (docs/spec.md 0 fact 4).
NORM_BY_EPS = {1e-5: "layernormbf16", 1e-6: "layernorm"}
FFN_ACTIVATION = {True: "silu", False: "gelu"}  # by use_gated_mlp


class HuggingFaceLayout(OfficialLayout):
    """`model.safetensors` beside a `config.json` of model_type dinov3_vit."""

    name = "hf"
    block_prefix = "layer."

    def recognises(self, keys: Collection[str]) -> bool:
        return any(key.startswith("embeddings.") for key in keys)

    def modernise(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        modern = super().modernise(tensors)
        modern.pop(DERIVED, None)
        return modern

    def modern(self, key: str) -> str:
        for pattern, replacement in OLDER_NAMES:
            key = pattern.sub(replacement, key)
        return key

    def places(self, official_key: str) -> dict[str, int | None]:
        block, _, param = official_key.rpartition("qkv.")
        if param not in ("weight", "bias"):
            return super().places(official_key)
        return {_projection(block, part, param): third for third, part in enumerate("qkv")}

    def spell(self, official_key: str) -> str:
        return spell(official_key, STEMS)

    def biases(self, keys: Collection[str]) -> tuple[bool, bool]:
        on_key = any(key.endswith("attention.k_proj.bias") for key in keys)
        return on_key or any(key.endswith("attention.q_proj.bias") for key in keys), not on_key

    def hints(self, sidecars: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        return config_hints(sidecars.get("config.json", {}))

    def shapes(self, config: ViTConfig, keys: Collection[str] = ()) -> dict[str, Shape]:
        D = config.embed_dim
        shapes: dict[str, Shape] = {}
        for key, shape in expected_shapes(config).items():
            block = key.removesuffix("qkv.weight").removesuffix("qkv.bias")
            if key.endswith("qkv.weight"):
                shapes.update((_projection(block, part, "weight"), (D, D)) for part in "qkv")
            elif key.endswith("qkv.bias"):
                parts = "qv" if config.mask_k_bias else "qkv"
                shapes.update((_projection(block, part, "bias"), (D,)) for part in parts)
            elif key == "mask_token":
                shapes[self.spell(key)] = (1, 1, D)
            elif not is_derived(key) or self.spell(key) in keys:
                shapes[self.spell(key)] = shape
        return shapes

    def to_official(self, tensors: Mapping[str, Tensor], config: ViTConfig) -> Mapping[str, Tensor]:
        """Official tensors; the fused qkv weights are joined on access."""
        state: dict[str, Tensor | Callable[[], Tensor]] = {}
        for key in expected_shapes(config):
            block = key.removesuffix("qkv.weight").removesuffix("qkv.bias")
            if key.endswith("qkv.weight"):
                parts = [tensors[_projection(block, part, "weight")] for part in "qkv"]
                state[key] = partial(torch.cat, parts)
            elif key.endswith("qkv.bias"):
                q, k, v = (_projection(block, part, "bias") for part in "qkv")
                state[key] = fuse_bias(tensors[q], tensors.get(k), tensors[v])
            elif key == "mask_token":
                state[key] = tensors[self.spell(key)].flatten(0, 1)
            elif self.spell(key) in tensors:
                state[key] = tensors[self.spell(key)]
        return LazyTensors(state)

    def from_official(self, state: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        parts = "qkv" if has_key_bias(state, config) else "qv"
        for key, tensor in state.items():
            block = key.removesuffix("qkv.weight").removesuffix("qkv.bias")
            if key.endswith("qkv.weight"):
                for part, third in zip("qkv", tensor.chunk(3), strict=True):
                    tensors[_projection(block, part, "weight")] = third
            elif key.endswith("qkv.bias"):
                bias = effective_bias(state, int(key.split(".")[1]))
                assert bias is not None
                thirds = dict(zip("qkv", bias.chunk(3), strict=True))
                tensors.update((_projection(block, part, "bias"), thirds[part]) for part in parts)
            elif key == "mask_token":
                tensors[self.spell(key)] = tensor.unsqueeze(1)
            elif not is_derived(key):
                tensors[self.spell(key)] = tensor
        return tensors


def config_hints(config: Mapping[str, Any]) -> dict[str, Any]:
    """`ViTConfig` fields from config.json.

    Raises for another model, or one that our layers do not support.
    """
    model_type = config.get("model_type", "dinov3_vit")
    if model_type != "dinov3_vit":
        raise ForeignCheckpoint(f"config.json says model_type {model_type!r}; wanted dinov3_vit")
    gated = bool(config.get("use_gated_mlp", False))
    activation = config.get("hidden_act", FFN_ACTIVATION[gated])
    if activation != FFN_ACTIVATION[gated]:
        raise CheckpointError(
            f"config.json says hidden_act {activation!r}; wanted {FFN_ACTIVATION[gated]!r} for this FFN"
        )
    hints: dict[str, Any] = {}
    if (eps := json_number(config, "layer_norm_eps")) is not None:
        if eps not in NORM_BY_EPS:
            raise CheckpointError(f"config.json says layer_norm_eps {eps:g}; wanted 1e-05 or 1e-06")
        hints["norm_layer"] = NORM_BY_EPS[eps]
    if (heads := json_number(config, "num_attention_heads")) is not None:
        hints["num_heads"] = int(heads)
    if (theta := json_number(config, "rope_theta")) is not None:
        hints["pos_embed_rope_base"] = float(theta)
    return hints


def _projection(block: str, part: str, param: str) -> str:
    """("blocks.3.attn.", "q", "weight") -> "layer.3.attention.q_proj.weight"."""
    return f"layer.{block.split('.')[1]}.attention.{part}_proj.{param}"
