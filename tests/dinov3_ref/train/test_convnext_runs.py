"""Whole runs of a ConvNeXt student: resumed, beside a ViT, on two ranks, exported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dinodeploy import Embedder
from dinov3_ref.checkpoints import build_model, load_checkpoint
from dinov3_ref.data import build_training_loader
from dinov3_ref.train.loop import TrainingRun
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from dinov3_ref.train.students import train_students
from exporters.bundle.export import export_checkpoint
from exporters.bundle.options import ExportOptions
from tests.support.training.ranks import run_on_ranks
from tests.support.training.toy_training import (
    CONVNEXT,
    as_convnext,
    frozen_teacher,
    losses,
    on_ranks,
    tiny_run,
    with_students,
)

STUDENTS: dict[str, dict[str, Any]] = {"vit": {}, "convnext": {"student": CONVNEXT}}


def configure(photos: Path, teacher: Path, output: Path, *overrides: str) -> Any:
    return tiny_run(
        photos,
        output,
        *frozen_teacher(teacher),
        "crops.global_crops_size=64",
        "crops.local_crops_size=48",
        "optim.epochs=2",
        "checkpointing.period=2",
        *overrides,
    )


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "teacher" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in b)


@pytest.fixture(scope="module")
def finished(photos: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    config = configure(photos, teacher, output, *as_convnext())
    TrainingRun(config, build_training_loader(config)).train()
    return output


def test_a_resumed_run_is_bit_equal(finished: Path, photos: Path, teacher: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(copy / "teacher")
    shutil.rmtree(copy / "ckpt" / "3")
    config = configure(photos, teacher, copy, *as_convnext())
    TrainingRun(config, build_training_loader(config)).train()
    assert len(losses(finished)) == 4
    assert losses(copy) == losses(finished)
    assert same(weights(copy), weights(finished))


def test_beside_a_vit_it_equals_a_separate_run(
    finished: Path, photos: Path, teacher: Path, tmp_path: Path
) -> None:
    config = with_students(configure(photos, teacher, tmp_path / "run"), STUDENTS)
    train_students(config, build_training_loader(config))
    vit = configure(photos, teacher, tmp_path / "vit")
    TrainingRun(vit, build_training_loader(vit)).train()
    for name, single in (("vit", tmp_path / "vit"), ("convnext", finished)):
        student = tmp_path / "run" / "students" / name
        assert losses(student) == losses(single)
        assert same(weights(student), weights(single))


def train_on_this_rank(photos: str, teacher: str, output: str, batch: int, strategy: str) -> None:
    config = configure(
        Path(photos),
        Path(teacher),
        Path(output),
        *as_convnext(),
        *on_ranks(batch, strategy),
    )
    TrainingRun(config, build_training_loader(config)).train()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["NO_SHARD", "SHARD_GRAD_OP", "FULL_SHARD"])
def test_on_two_ranks(strategy: str, photos: Path, teacher: Path, tmp_path: Path) -> None:
    """The same global batch: losses within 1e-5; the norm that is stored twice has one value."""
    (tmp_path / "ranks").mkdir()
    paths = str(photos), str(teacher)
    run_on_ranks(train_on_this_rank, 2, tmp_path / "ranks", *paths, str(tmp_path / "two"), 1, strategy)
    train_on_this_rank(*paths, str(tmp_path / "one"), 2, strategy)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 4
    assert two == pytest.approx(one, rel=1e-5)
    made = weights(tmp_path / "two")
    for kind in ("weight", "bias"):
        assert torch.equal(made[f"norms.3.{kind}"], made[f"norm.{kind}"])
        torch.testing.assert_close(made[f"norm.{kind}"], weights(tmp_path / "one")[f"norm.{kind}"])
    assert load_checkpoint(tmp_path / "two" / "teacher").layout == "official"


@pytest.mark.slow
def test_the_trained_model_can_be_exported(finished: Path, tmp_path: Path) -> None:
    """Export raises if the parity check fails."""
    checkpoint = load_checkpoint(finished / "teacher")
    options = ExportOptions(imgsz=(64, 96))
    export_checkpoint(checkpoint, tmp_path / "bundle", options, weights="file")
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with Embedder.open(tmp_path / "bundle") as embedder, torch.no_grad():
        wanted = build_model(checkpoint)(pixels)
        torch.testing.assert_close(torch.from_numpy(embedder.run(pixels.numpy())["cls"]), wanted)


def test_weight_decay_of_the_parameters(teacher: Path, photos: Path, tmp_path: Path) -> None:
    """No layer-wise rate; downsampling norms decay, as their names lack "norm" (docs/spec.md 4.10)."""
    config = configure(photos, teacher, tmp_path, *as_convnext(), "optim.layerwise_decay=0.9")
    groups = [group for group in SSLMetaArch(config).get_params_groups() if "backbone" in group["name"]]
    assert {group["lr_multiplier"] for group in groups} == {1.0}
    decay = {group["name"].removeprefix("backbone."): group["wd_multiplier"] for group in groups}
    for name in ("downsample_layers.0.1.weight", "downsample_layers.2.0.weight", "stages.0.0.dwconv.weight"):
        assert decay[name] == 1.0, name
    for name in ("stages.0.0.norm.weight", "stages.0.0.pwconv1.bias", "stages.0.0.gamma", "norm.weight"):
        assert decay[name] == 0.0, name
