"""The exported teacher is an official checkpoint, and reloads bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dinov3_ref.checkpoints import build_model as build_from_checkpoint
from dinov3_ref.checkpoints import load_checkpoint
from dinov3_ref.configs import load_config, recipe_names
from dinov3_ref.data import build_training_loader
from dinov3_ref.errors import Dinov3Error
from dinov3_ref.models.build import build_model
from dinov3_ref.train.export_teacher import export_teacher
from dinov3_ref.train.loop import TrainingRun
from tests.support.images.photographs import pixels
from tests.support.training.toy_training import as_convnext, tiny_run, tiny_training


def test_the_teacher_is_an_official_checkpoint(photos: Path, tmp_path: Path) -> None:
    """A recipe with a released model's details exports what any user of official files can load."""
    released = ("student.n_storage_tokens=4", "student.mask_k_bias=true", "student.norm_layer=layernormbf16")
    channels = ("crops.rgb_mean=[0.5,0.4,0.3]", "crops.rgb_std=[0.25,0.24,0.23]")
    config = tiny_run(
        photos, tmp_path / "run", *released, *channels, "student.embed_dim=128", "optim.epochs=1"
    )
    config.optim.warmup_epochs = 0
    training = TrainingRun(config, build_training_loader(config))
    training.train()
    checkpoint = load_checkpoint(tmp_path / "run" / "teacher")
    assert (checkpoint.mean, checkpoint.std) == ((0.5, 0.4, 0.3), (0.25, 0.24, 0.23))
    assert checkpoint.dataset is None
    model = build_from_checkpoint(checkpoint)
    x = pixels(["coffee"], 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(model(x), training.arch.teacher["backbone"](x))


SIZES = {"arch", "embed_dim", "depth", "num_heads", "depths", "dims", "drop_path_rate"}
DISTILLATION = ("distillation.full_cfg_path", "distillation.checkpoint_path")
SOURCES = {"pretrained_weights", "resume_from_teacher_chkpt"}
# Options that no recipe sets, and that change what the model computes.
RARE: dict[str, tuple[str, ...]] = {
    "max": ("student.pos_embed_rope_normalize_coords=max",),
    "min": ("student.pos_embed_rope_normalize_coords=min",),
    "bf16": ("student.pos_embed_rope_dtype=bf16",),
    "eps 1e-6": ("student.norm_layer=layernorm",),
    "rmsnorm": ("student.norm_layer=rmsnorm",),
    "base": ("student.pos_embed_rope_base=50.0",),
    "periods": (
        "student.pos_embed_rope_base=null",
        "student.pos_embed_rope_min_period=0.5",
        "student.pos_embed_rope_max_period=9.0",
    ),
    "norms": ("student.untie_cls_and_patch_norms=true", "student.untie_global_and_local_cls_norm=true"),
    "biases": ("student.qkv_bias=false", "student.proj_bias=false", "student.ffn_bias=false"),
    "k bias": ("student.mask_k_bias=true",),
    "no LayerScale": ("student.layerscale=null",),
    "swiglu64": ("student.ffn_layer=swiglu64", "student.ffn_ratio=3.0"),
    "patch 8": ("student.patch_size=8",),
    "head_dim 8": ("student.num_heads=4",),
    "ConvNeXt": (*as_convnext(), "student.patch_size=8"),
}


def of_recipe(name: str) -> tuple[str, ...]:
    """The options of a recipe's student other than its size, as overrides of the tiny one."""
    missing = [f"{key}=none" for key in ("student.pretrained_weights", "gram.ckpt", *DISTILLATION)]
    student = dict(load_config(name, missing).student)
    if student["arch"].startswith("convnext"):
        return (*as_convnext(), f"student.patch_size={student['patch_size']}")
    chosen = {key: value for key, value in student.items() if key not in SIZES | SOURCES}
    return tuple(f"student.{key}={json.dumps(value)}" for key, value in chosen.items())


TEXTS = {"dinotxt", "toy_text"}  # recipes without a student
CASES = {**{name: of_recipe(name) for name in recipe_names() if name not in TEXTS}, **RARE}


@pytest.mark.parametrize("case", CASES)
def test_the_reloaded_teacher_computes_the_same_bits(tmp_path: Path, case: str) -> None:
    """Whatever option of the student changes its function is in the files, for every recipe."""
    config = tiny_training(*CASES[case])
    torch.manual_seed(0)
    teacher = build_model(config).eval()
    for parameter in teacher.parameters():  # random weights with a gain of 1 hide errors
        torch.nn.init.normal_(parameter, std=0.3)
    networks = SimpleNamespace(config=config, model_ema=torch.nn.ModuleDict({"backbone": teacher}))
    backbone, everything = export_teacher(networks, tmp_path)  # type: ignore[arg-type]
    x = pixels(["coffee"], 64, 96)
    for path in (backbone.parent, backbone, everything):
        loaded = load_checkpoint(path)
        assert not any("no config.json" in note for note in loaded.notes)
        with torch.no_grad():
            assert torch.equal(build_from_checkpoint(loaded)(x), teacher(x)), path


def test_a_teacher_without_its_config_says_what_is_guessed(tmp_path: Path) -> None:
    config = tiny_training("student.norm_layer=layernorm")
    networks = SimpleNamespace(
        config=config, model_ema=torch.nn.ModuleDict({"backbone": build_model(config).eval()})
    )
    backbone, _ = export_teacher(networks, tmp_path)  # type: ignore[arg-type]
    (backbone.parent / "config.json").unlink()
    assert "no config.json tells LayerNorm's eps" in " ".join(load_checkpoint(backbone).notes)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"embed_dim": 64}, r"cls_token expected \[1, 1, 64\] found \[1, 1, 32\]"),
        ({"embed_dim": "32"}, "model option embed_dim is '32'; wanted int"),
        ({"depth": True}, "model option depth is True; wanted int"),
        ({"epsilon": 1}, "unknown model option 'epsilon'"),
        ({"pos_embed_rope_normalize_coords": 3}, "wanted str"),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    config = tiny_training()
    networks = SimpleNamespace(
        config=config, model_ema=torch.nn.ModuleDict({"backbone": build_model(config).eval()})
    )
    backbone, _ = export_teacher(networks, tmp_path)  # type: ignore[arg-type]
    path = backbone.parent / "config.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    described["model_config"] |= entry
    path.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(Dinov3Error, match=words) as caught:
        load_checkpoint(backbone)
    assert "\n" not in str(caught.value)
