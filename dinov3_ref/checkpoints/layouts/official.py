"""The official layout: flat keys of facebookresearch/dinov3's own state dicts (docs/spec.md 3.1)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from dinov3_ref.checkpoints.tensor_shapes import Shape, expected_shapes
from dinov3_ref.models.config import ViTConfig

PERIODS = "rope_embed.periods"


class OfficialLayout:
    """The official key names, to which all other layouts are converted."""

    name = "official"
    block_prefix = "blocks."

    def recognises(self, keys: Collection[str]) -> bool:
        return "storage_tokens" in keys or any(key.endswith("attn.qkv.weight") for key in keys)

    def modernise(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    def spell(self, official_key: str) -> str:
        return official_key

    def biases(self, keys: Collection[str]) -> tuple[bool, bool]:
        masked = any(key.endswith("attn.qkv.bias_mask") for key in keys)
        biased = masked or any(key.endswith("attn.qkv.bias") for key in keys)
        return biased, masked or not biased

    def hints(self, sidecars: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        return {}

    def shapes(self, config: ViTConfig, keys: Collection[str] = ()) -> dict[str, Shape]:
        shapes = expected_shapes(config)
        if PERIODS not in keys:  # optional: some files lack it, and it can be computed
            del shapes[PERIODS]
        return shapes

    def to_official(self, tensors: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
        return dict(tensors)

    def from_official(self, state: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
        return dict(state)
