"""A ConvNeXt distilled from a frozen ViT: resized patches, gradients of all parameters, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from dinov3_ref.checkpoints import build_model, load_checkpoint
from dinov3_ref.data import build_training_loader
from dinov3_ref.errors import ConfigError
from dinov3_ref.train.loop import TrainingRun
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.support.training.toy_training import (
    as_convnext,
    collated,
    frozen_teacher,
    make_masks,
    tiny_run,
    tiny_training,
)


@pytest.fixture
def student(teacher: Path) -> tuple[str, ...]:
    """Overrides: a ConvNeXt distilled from `teacher`."""
    return (*frozen_teacher(teacher), *as_convnext())


def batch() -> dict[str, Any]:
    """Global crops of 64x96: 4x6 patches of the teacher, 2x3 of the student; local ones of 32x56."""
    data = collated()
    data["collated_global_crops"] = F.interpolate(data["collated_global_crops"], (64, 96))
    data["collated_local_crops"] = F.interpolate(data["collated_local_crops"], (32, 56))
    data["collated_masks"] = make_masks(8, 24)
    return data


def test_every_parameter_learns(student: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    arch = SSLMetaArch(tiny_training(*student)).train()
    optimizer = torch.optim.AdamW(arch.student.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        losses.append(arch.forward_backward(batch(), teacher_temp=0.05)[0].item())
        for name, parameter in arch.student.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
        optimizer.step()
    assert losses[-1] < losses[0]


def test_patches_are_resized_to_the_teachers_grid(student: tuple[str, ...]) -> None:
    arch = SSLMetaArch(tiny_training(*student))
    data = batch()
    crops = data["collated_global_crops"]
    output, _ = arch.get_student_output(global_crops=crops, local_crops=None, masks=data["collated_masks"])
    tokens = arch.student["backbone"](crops, is_training=True)["x_norm_patchtokens"]
    maps = tokens.transpose(1, 2).unflatten(2, (2, 3))
    wanted = F.interpolate(maps, (4, 6), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(output["patch_pre_head"], wanted)
    masked = arch.student["ibot_head"](wanted[data["collated_masks"]])
    torch.testing.assert_close(output["masked_patch_after_head"], masked)


def test_the_result_is_an_official_checkpoint(student: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    config = tiny_run(
        photos, tmp_path / "run", *student,
        "crops.global_crops_size=64", "crops.local_crops_size=48",
        "optim.epochs=2", f"evaluation.pictures_path={photos}", "evaluation.crop_size=64",
    )  # fmt: skip
    run = TrainingRun(config, build_training_loader(config))
    run.train()
    checkpoint = load_checkpoint(tmp_path / "run" / "teacher")
    assert checkpoint.layout == "official"
    assert "norms.3.weight" in load_file(tmp_path / "run" / "teacher" / "model.safetensors")
    crops = batch()["collated_global_crops"]
    with torch.no_grad():
        assert torch.equal(build_model(checkpoint)(crops), run.arch.model_ema["backbone"](crops))
    assert list((tmp_path / "run" / "pictures").glob("pca_*.png"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("crops.global_crops_size=240",), "the student convnext_tiny sees 240 px; wanted a multiple"),
        (("crops.local_crops_size=16",), "convnext_tiny sees 16 px; wanted at least its stride"),
        (("gram.use_loss=true", "gram.ema_teacher=true"), "Gram anchoring is not tested with convnext_tiny"),
    ],
)
def test_wrong_crop_sizes_and_gram_loss(
    student: tuple[str, ...], overrides: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_training(*student, *overrides)
