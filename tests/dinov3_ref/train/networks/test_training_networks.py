"""Student and teachers: initial weights, frozen parameters, distillation from another configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.support.toy_training import collated, same_weights, tiny_training

# Options of the released models.
RELEASED = (
    "student.n_storage_tokens=4",
    "student.mask_k_bias=true",
    "student.norm_layer=layernormbf16",
    "student.embed_dim=128",
)
LARGER = ("student.embed_dim=64", "student.depth=3", "dino.head_hidden_dim=20", "ibot.head_bottleneck_dim=12")
OWN_GRAM = ("gram.use_loss=true", "crops.gram_teacher_crops_size=64")


def test_the_teacher_starts_as_the_student_and_is_frozen() -> None:
    arch = SSLMetaArch(tiny_training("student.drop_path_rate=0.3"))
    assert arch.teacher is arch.model_ema
    assert same_weights(arch.student, arch.model_ema)
    assert not any(p.requires_grad for p in arch.teacher.parameters())
    rates = [[b.sample_drop_ratio for b in side["backbone"].blocks] for side in (arch.student, arch.teacher)]
    assert rates == [[0.3, 0.3], [0.0, 0.0]]


def test_modes() -> None:
    arch = SSLMetaArch(tiny_training())
    assert arch.train() is arch
    assert (arch.student.training, arch.model_ema.training, arch.model_ema["backbone"].training) == (
        True,
        False,
        False,
    )
    assert not arch.eval().student.training  # raises in the official code


def test_no_tensor_is_twice_in_the_state() -> None:
    arch = SSLMetaArch(tiny_training())
    tops = {key.split(".")[0] for key in arch.state_dict()}
    assert tops == {"student", "model_ema", "dino_loss", "ibot_patch_loss"}


def test_ema_moves_the_teacher() -> None:
    arch = SSLMetaArch(tiny_training())
    name = "backbone.blocks.0.attn.proj.weight"
    before = arch.model_ema.state_dict()[name].clone()
    arch.student.get_parameter(name).data += 1
    arch.after_step(0, momentum=0.75)
    torch.testing.assert_close(arch.model_ema.state_dict()[name], before + 0.25)


def test_built_on_meta_and_initialised_later() -> None:
    arch = SSLMetaArch(tiny_training("student.mask_k_bias=true", "student.n_storage_tokens=1"), device="meta")
    assert all(value.is_meta for value in arch.state_dict().values())
    arch.to_empty(device="cpu")
    for value in arch.state_dict().values():
        value.fill_(float("nan"))
    arch.init_weights()
    assert all(value.isfinite().all() for value in arch.state_dict().values())
    assert same_weights(arch.student, arch.model_ema)
    loss, _ = arch.train().forward_backward(collated(), teacher_temp=0.05)
    assert loss.isfinite()


# ---- distillation -------------------------------------------------------------------------------


@pytest.fixture
def teacher_file(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.yaml"
    OmegaConf.save(tiny_training(*LARGER), path)
    return path


def distilling(teacher_file: Path, checkpoint: str = "ignore", *overrides: str) -> SSLMetaArch:
    return SSLMetaArch(
        tiny_training(
            "distillation.enabled=true",
            f"distillation.full_cfg_path={teacher_file}",
            f"distillation.checkpoint_path={checkpoint}",
            *overrides,
        )
    )


def test_a_larger_frozen_teacher(teacher_file: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    large = SSLMetaArch(tiny_training(*LARGER))
    torch.save({"teacher": large.teacher.state_dict()}, tmp_path / "teacher.pth")
    arch = distilling(teacher_file, str(tmp_path / "teacher.pth")).train()
    assert same_weights(arch.teacher, large.teacher)
    assert arch.teacher["backbone"].embed_dim == 64
    assert arch.student["backbone"].embed_dim == 32
    assert same_weights(arch.student, arch.model_ema)

    data = collated()
    targets = arch.get_teacher_output(
        data["collated_global_crops"], mask_indices_list=torch.tensor([0]), teacher_temp=0.05
    )
    scores = large.teacher["dino_head"](large.teacher["backbone"](data["collated_global_crops"]))
    wanted = arch.dino_loss.sinkhorn_knopp_teacher(scores, 0.05)
    torch.testing.assert_close(targets["cls_centered"].flatten(0, 1), wanted)

    arch.forward_backward(data, teacher_temp=0.05)
    arch.student["backbone"].cls_token.data += 1
    arch.after_step(0, momentum=0.5)
    assert same_weights(arch.teacher, large.teacher)  # frozen
    assert not same_weights(arch.model_ema, arch.student)  # the EMA of the student


def test_with_distillation_the_student_sees_no_mask(teacher_file: Path) -> None:
    """docs/spec.md 0, fact 19; the iBOT loss still compares the masked patches."""
    arch = distilling(teacher_file)
    data = collated()
    student, _ = arch.get_student_output(
        global_crops=data["collated_global_crops"],
        local_crops=data["collated_local_crops"],
        masks=data["collated_masks"],
    )
    plain = arch.student["backbone"](data["collated_global_crops"], is_training=True)["x_norm_patchtokens"]
    torch.testing.assert_close(student["patch_pre_head"], plain)
    assert len(student["masked_patch_after_head"]) == data["collated_masks"].sum()


def test_a_teacher_of_larger_crops(teacher_file: Path) -> None:
    """Crops twice as large: the student sees them at half size; targets are means of four patches."""
    arch = distilling(teacher_file, "ignore", "crops.teacher_to_student_resolution_scale=2.0").train()
    data = collated()
    data["collated_global_crops"] = collated(gram_size=(64, 96))["collated_gram_teacher_crops"]
    data["collated_local_crops"] = data["collated_local_crops"].repeat(1, 1, 2, 2)
    loss, metrics = arch.forward_backward(data, teacher_temp=0.05)

    teacher = arch.teacher["backbone"](data["collated_global_crops"], is_training=True)
    patches = teacher["x_norm_patchtokens"].view(8, 2, 2, 3, 2, -1).mean((2, 4)).flatten(1, 2)
    scores = arch.teacher["ibot_head"](patches[data["collated_masks"]])
    smaller = nn.functional.interpolate(
        data["collated_global_crops"], scale_factor=0.5, mode="bicubic", antialias=True
    )
    student = arch.student["backbone"](smaller, is_training=True)["x_norm_patchtokens"]
    wanted = arch.ibot_patch_loss.forward_masked(
        arch.student["ibot_head"](student[data["collated_masks"]]),
        arch.ibot_patch_loss.sinkhorn_knopp_teacher(scores, 0.05),
        data["collated_masks"],
    )
    assert float(metrics["ibot_loss"]) == pytest.approx(wanted.item(), rel=1e-4)
    assert loss.isfinite()
    with pytest.raises(ConfigError, match="resolution_scale is 2; wanted 1, or more with"):
        tiny_training("crops.teacher_to_student_resolution_scale=2.0")


def test_distillation_needs_both_paths() -> None:
    with pytest.raises(ConfigError, match=r"needs distillation\.full_cfg_path"):
        tiny_training("distillation.enabled=true", "distillation.checkpoint_path=ignore")
