"""Learning-rate and decay multipliers of a ViT and a head, by hand (docs/spec.md 4.10)."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.layers import DINOHead
from dinov3_ref.models import DinoVisionTransformer
from dinov3_ref.train.param_groups import (
    fuse_params_groups,
    get_params_groups_with_decay,
    get_vit_lr_decay_rate,
)

DEPTH = 3


@pytest.fixture(scope="module")
def vit() -> DinoVisionTransformer:
    return DinoVisionTransformer(
        embed_dim=16, depth=DEPTH, num_heads=2, n_storage_tokens=1, layerscale_init=1e-5, device="meta"
    )


@pytest.mark.parametrize(
    ("name", "exponent"),
    [
        ("patch_embed.proj.weight", 4),
        ("cls_token", 4),
        ("storage_tokens", 4),
        ("mask_token", 4),
        ("blocks.0.attn.qkv.weight", 3),
        ("blocks.1.mlp.fc1.bias", 2),
        ("blocks.2.norm1.weight", 1),
        ("norm.weight", 0),
        ("local_cls_norm.bias", 0),
    ],
)
def test_layer_decay(name: str, exponent: int) -> None:
    """Three blocks: embeddings are four layers below the final norm."""
    assert get_vit_lr_decay_rate(name, 0.9, DEPTH) == pytest.approx(0.9**exponent)


def test_two_digit_blocks_and_prefixes() -> None:
    assert get_vit_lr_decay_rate("blocks.11.norm1.weight", 0.9, 12) == pytest.approx(0.9)
    assert get_vit_lr_decay_rate("backbone.blocks.3.norm1.weight", 0.9, 12) == pytest.approx(0.9**9)


def test_a_module_without_blocks_has_the_full_rate() -> None:
    groups = get_params_groups_with_decay(DINOHead(16, 20, hidden_dim=8, bottleneck_dim=4), 0.9)
    assert {g["lr_multiplier"] for g in groups} == {1.0}
    assert [g["name"] for g in groups if g["is_last_layer"]] == ["last_layer.weight"]


def test_which_parameters_decay(vit: DinoVisionTransformer) -> None:
    """Biases, norms and LayerScale do not; tokens do."""
    groups = {g["name"]: g for g in get_params_groups_with_decay(vit, 0.9, patch_embed_lr_mult=0.2)}
    assert len(groups) == len(list(vit.parameters()))
    without = {name for name, g in groups.items() if g["wd_multiplier"] == 0}
    for name in ("patch_embed.proj.bias", "norm.weight", "blocks.0.ls1.gamma", "blocks.2.norm2.bias"):
        assert name in without
    for name in ("cls_token", "storage_tokens", "mask_token", "patch_embed.proj.weight"):
        assert groups[name]["wd_multiplier"] == 1
    assert groups["patch_embed.proj.weight"]["lr_multiplier"] == pytest.approx(0.2 * 0.9**4)
    assert groups["cls_token"]["lr_multiplier"] == pytest.approx(0.9**4)


def test_the_head_prefix_decides_its_decay() -> None:
    head = DINOHead(16, 20, hidden_dim=8, bottleneck_dim=4)
    for prefix, wanted in (("dino_head.", 0.5), ("ibot_head.", 1.0)):
        groups = get_params_groups_with_decay(head, dino_head_wd_multiplier=0.5, prefix=prefix)
        by_name = {g["name"]: g["wd_multiplier"] for g in groups}
        assert by_name[f"{prefix}last_layer.weight"] == wanted
        assert by_name[f"{prefix}mlp.0.bias"] == 0


def test_given_rates_and_frozen_parameters() -> None:
    vit = DinoVisionTransformer(embed_dim=16, depth=DEPTH, num_heads=2)
    vit.blocks[0].requires_grad_(False)
    groups = get_params_groups_with_decay(vit, 0.9, lr=1e-3, weight_decay=0.1)
    by_name = {g["name"]: g for g in groups}
    assert not any(name.startswith("blocks.0.") for name in by_name)
    assert by_name["blocks.1.attn.proj.weight"]["lr"] == pytest.approx(1e-3 * 0.9**2)
    assert by_name["blocks.1.attn.proj.bias"]["weight_decay"] == 0
    assert by_name["blocks.1.attn.proj.weight"]["weight_decay"] == 0.1


def test_fusing_keeps_every_parameter_and_every_multiplier(vit: DinoVisionTransformer) -> None:
    groups = get_params_groups_with_decay(vit, 0.9, patch_embed_lr_mult=0.2)
    fused = fuse_params_groups(groups)
    signatures = {(g["is_last_layer"], g["lr_multiplier"], g["wd_multiplier"]) for g in groups}
    assert len(fused) == len(signatures) < len(groups)
    wanted = {id(g["params"]): g["lr_multiplier"] for g in groups}
    assert {id(p): g["lr_multiplier"] for g in fused for p in g["params"]} == wanted
    assert "name" not in fused[0]
    assert all(isinstance(g["params"], torch.Tensor) for g in groups)  # the input is not changed
