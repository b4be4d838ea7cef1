"""timm's layout of DINOv3 ViTs (its Eva class; docs/spec.md 3.4).

q and v have biases only in the `_qkvb` variants, which we write if a bias is not zero. Mask token, RoPE
periods, bias mask and `local_cls_norm` are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor

from dinov3_ref.checkpoints.files import json_number, json_object
from dinov3_ref.checkpoints.layouts.official import (
    OfficialLayout,
    effective_bias,
    fuse_bias,
    has_key_bias,
    has_qkv_bias,
    is_derived,
    spell,
)
from dinov3_ref.checkpoints.tensor_shapes import Shape, expected_shapes
from dinov3_ref.errors import CheckpointError
from dinov3_ref.models.config import ViTConfig

STEMS: dict[str, str] = {
    "storage_tokens": "reg_token",
    "blocks.{i}.ls1.gamma": "blocks.{i}.gamma_1",
    "blocks.{i}.ls2.gamma": "blocks.{i}.gamma_2",
    "blocks.{i}.mlp.w1": "blocks.{i}.mlp.fc1_g",
    "blocks.{i}.mlp.w2": "blocks.{i}.mlp.fc1_x",
    "blocks.{i}.mlp.w3": "blocks.{i}.mlp.fc2",
}

# `model_args` of config.json that tensors do not determine -> field of `ViTConfig`, and its type.
HINTS: dict[str, tuple[str, Callable[[float], float]]] = {
    "num_heads": ("num_heads", int),
    "rope_temperature": ("pos_embed_rope_base", float),
}


class TimmLayout(OfficialLayout):
    """`model.safetensors` of huggingface.co/timm, or a state dict of `timm.create_model`."""

    name = "timm"

    def recognises(self, keys: Collection[str]) -> bool:
        return "reg_token" in keys or any(key.endswith(".gamma_1") for key in keys)

    def spell(self, official_key: str) -> str:
        return spell(official_key, STEMS)

    def places(self, official_key: str) -> dict[str, int | None]:
        if not official_key.endswith("qkv.bias"):
            return super().places(official_key)
        attention = official_key.removesuffix("qkv.bias")
        return {f"{attention}q_bias": 0, f"{attention}v_bias": 2}

    def biases(self, keys: Collection[str]) -> tuple[bool, bool]:
        return any(key.endswith(("attn.q_bias", "attn.v_bias")) for key in keys), True

    def hints(self, sidecars: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        arguments = json_object(sidecars.get("config.json", {}), "model_args")
        told = {name: json_number(arguments, name) for name in HINTS}
        return {HINTS[name][0]: HINTS[name][1](value) for name, value in told.items() if value is not None}

    def shapes(self, config: ViTConfig, keys: Collection[str] = ()) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for key, shape in expected_shapes(config).items():
            if key.endswith("qkv.bias"):
                attention = key.removesuffix("qkv.bias")
                shapes[f"{attention}q_bias"] = shapes[f"{attention}v_bias"] = (config.embed_dim,)
            elif not _dropped(key):
                shapes[self.spell(key)] = shape
        return shapes

    def to_official(self, tensors: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for key in expected_shapes(config):
            if key.endswith("qkv.bias"):
                attention = key.removesuffix("qkv.bias")
                state[key] = fuse_bias(tensors[f"{attention}q_bias"], None, tensors[f"{attention}v_bias"])
            elif not _dropped(key):
                state[key] = tensors[self.spell(key)]
        return state

    def from_official(self, state: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
        if has_key_bias(state, config):
            raise CheckpointError("timm cannot store a bias on k, which this model has; write hf or official")
        with_bias = has_qkv_bias(state, config)
        tensors: dict[str, Tensor] = {}
        for key, tensor in state.items():
            if key.endswith("qkv.bias"):
                bias = effective_bias(state, int(key.split(".")[1]))
                if with_bias and bias is not None:
                    attention = key.removesuffix("qkv.bias")
                    tensors[f"{attention}q_bias"], _, tensors[f"{attention}v_bias"] = bias.chunk(3)
            elif not _dropped(key):
                tensors[self.spell(key)] = tensor
        return tensors


def _dropped(official_key: str) -> bool:
    """Whether this layout cannot store a tensor."""
    return official_key == "mask_token" or is_derived(official_key)
