"""Networks that cannot be built from a configuration, and frozen ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dinov3_ref.errors import ConfigError
from dinov3_ref.train.networks.build import (
    build_gram_teacher,
    build_student_and_teacher,
    distillation_teacher_config,
)
from tests.support.training.toy_training import as_convnext, tiny_training


def test_only_the_student_has_gradients() -> None:
    student, teacher, embed_dim = build_student_and_teacher(tiny_training())
    assert embed_dim == 32
    assert list(student) == list(teacher) == ["backbone", "dino_head", "ibot_head"]
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_gram_teacher_is_a_frozen_backbone() -> None:
    modules = build_gram_teacher(tiny_training())
    assert list(modules) == ["backbone"]
    assert not any(parameter.requires_grad for parameter in modules.parameters())


def test_a_convnext_needs_a_teacher() -> None:
    with pytest.raises(ConfigError, match="it can only be distilled from a frozen teacher"):
        build_student_and_teacher(tiny_training(*as_convnext()))


@pytest.mark.parametrize("key", ["dino.head_n_prototypes", "ibot.head_n_prototypes", "student.patch_size"])
def test_patches_and_prototypes_must_equal_the_teachers(key: str, tmp_path: Path) -> None:
    OmegaConf.save(tiny_training(), tmp_path / "teacher.yaml")
    config = tiny_training(
        "distillation.enabled=true",
        f"distillation.full_cfg_path={tmp_path / 'teacher.yaml'}",
        "distillation.checkpoint_path=ignore",
        f"{key}=8",
    )
    with pytest.raises(ConfigError, match=f"{key} is 8, the distillation teacher's is"):
        distillation_teacher_config(config)
