"""From a file of any layout to a model: what is filled in, what is noted, what is checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinov3_ref.checkpoints import (
    build_model,
    expected_shapes,
    load_checkpoint,
    random_checkpoint,
    save_checkpoint,
)
from dinov3_ref.checkpoints.architecture import NORMALIZATION
from dinov3_ref.checkpoints.files import RawCheckpoint
from dinov3_ref.checkpoints.layouts.detect import LAYOUTS
from dinov3_ref.checkpoints.load import complete, identify
from dinov3_ref.models.released import ARCHITECTURES
from tests.support.checkpoint_files import TINY_VITS, features, write_official
from tests.support.images.photographs import pixels

PIXELS = pixels(("coffee", "chelsea"), 48, 80)


@pytest.mark.parametrize("kind", TINY_VITS)
def test_one_model_in_every_layout_gives_the_same_features(tmp_path: Path, kind: str) -> None:
    checkpoint = random_checkpoint(TINY_VITS[kind])
    wanted = features(checkpoint, PIXELS)
    for layout, name in [
        ("official", "a.pth"),
        ("official", "a.safetensors"),
        ("hf", "hf"),
        ("timm", "timm"),
    ]:
        save_checkpoint(checkpoint, layout, tmp_path / name)
        loaded = load_checkpoint(tmp_path / name)
        assert loaded.layout == layout
        assert {key: tuple(t.shape) for key, t in loaded.state.items()} == expected_shapes(loaded.config)
        assert torch.equal(features(loaded, PIXELS), wanted), layout  # same numbers, same arithmetic


def test_official_file_is_complete_but_for_two_options(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TINY_VITS["mlp"])
    loaded = load_checkpoint(write_official(tmp_path / "a.pth", checkpoint))
    assert loaded.notes == (
        "no config.json tells LayerNorm's eps and how RoPE normalises coordinates: took 1e-05 and "
        "'separate', as in released models",
    )
    assert (loaded.config, loaded.arch, loaded.dataset) == (TINY_VITS["mlp"], "custom", None)
    assert all(torch.equal(loaded.state[key], tensor) for key, tensor in checkpoint.state.items())
    assert loaded.state["rope_embed.periods"].dtype == torch.float32


def test_a_file_with_rmsnorm_says_what_it_does_not_tell(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(replace(TINY_VITS["mlp"], norm_layer="rmsnorm"))
    loaded = load_checkpoint(write_official(tmp_path / "a.pth", checkpoint))
    assert loaded.config.norm_layer == "rmsnorm"
    assert loaded.notes == (
        "no config.json tells how RoPE normalises coordinates: took 'separate', as in released models",
    )


def test_masked_bias_is_not_added(tmp_path: Path) -> None:
    """Released masks are all zero: whatever the bias says, nothing may be added."""
    checkpoint = random_checkpoint(TINY_VITS["mlp"])

    def close_masks(state) -> None:
        for key in state:
            if key.endswith("bias_mask"):
                state[key].zero_()

    closed = load_checkpoint(write_official(tmp_path / "closed.pth", checkpoint, change=close_masks))
    assert not torch.allclose(features(closed, PIXELS), features(checkpoint, PIXELS), atol=1e-3)
    for layout in ("hf", "timm"):
        save_checkpoint(closed, layout, tmp_path / layout)
        loaded = load_checkpoint(tmp_path / layout)
        assert torch.equal(features(loaded, PIXELS), features(closed, PIXELS)), layout


def test_half_precision_is_noted_and_converted(tmp_path: Path) -> None:
    def halve(state) -> None:
        state.update({key: tensor.to(torch.bfloat16) for key, tensor in state.items()})

    path = write_official(tmp_path / "a.pth", random_checkpoint(TINY_VITS["mlp"]), change=halve)
    loaded = load_checkpoint(path)
    assert loaded.state["norm.weight"].dtype == torch.bfloat16
    assert any("stored as bfloat16" in note for note in loaded.notes)
    assert {p.dtype for p in build_model(loaded).parameters()} == {torch.float32}


def test_model_shares_the_checkpoints_memory_and_is_in_eval_mode(tmp_path: Path) -> None:
    loaded = load_checkpoint(write_official(tmp_path / "a.pth", random_checkpoint(TINY_VITS["mlp"])))
    model = build_model(loaded)
    assert not model.training
    assert model.state_dict().keys() == loaded.state.keys()
    for key, tensor in model.state_dict().items():
        assert tensor.data_ptr() == loaded.state[key].data_ptr(), key
    assert model.norm.weight.requires_grad


def test_model_in_another_dtype_keeps_its_periods(tmp_path: Path) -> None:
    model = build_model(random_checkpoint(TINY_VITS["mlp"]), dtype=torch.float64)
    assert model.norm.weight.dtype == torch.float64
    assert model.rope_embed.periods.dtype == torch.float32


@pytest.mark.parametrize(("dataset", "untied"), [("sat493m", True), ("lvd1689m", False)])
def test_satellite_vit_large_gets_its_extra_norm_back(dataset: str, untied: bool) -> None:
    """Hugging Face drops `local_cls_norm`, by which official loaders tell the satellite ViT-L."""
    processor = dict(zip(("image_mean", "image_std"), map(list, NORMALIZATION[dataset]), strict=True))
    raw = RawCheckpoint(Path("vit_large"), {}, "f" * 64, {"preprocessor_config.json": processor})
    checkpoint = identify(raw, LAYOUTS[0].name, ARCHITECTURES["vit_large"], "vit_large")
    assert checkpoint.config.untie_global_and_local_cls_norm is untied


def test_absent_norm_is_the_identity() -> None:
    config = replace(TINY_VITS["mlp"], untie_global_and_local_cls_norm=True)
    found = {k: t for k, t in random_checkpoint(config).state.items() if "local_cls_norm" not in k}
    state, notes = complete(found, config, "bf16")
    assert state["local_cls_norm.weight"].tolist() == [1.0] * 128
    assert state["local_cls_norm.bias"].tolist() == [0.0] * 128
    assert notes == ["local_cls_norm: absent, set to the identity (only training uses it)"]
