"""Losses against their formulas, gradients, precision, and what student and teacher see."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3_ref.loss import KoLeoLoss
from dinov3_ref.train.batch import Batch
from dinov3_ref.train.distributed.devices import autocast
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.support.training.toy_training import N_LOCAL, collated, tiny_training

TEMP = 0.05


def build(*overrides: str) -> SSLMetaArch:
    torch.manual_seed(0)
    arch = SSLMetaArch(tiny_training(*overrides))
    for parameter in arch.student.parameters():  # so that targets differ from outputs
        parameter.data += 0.05 * torch.randn_like(parameter)
    return arch.train()


def outputs_of(arch: SSLMetaArch, data: dict[str, Any]) -> tuple[Any, Any, Any, Batch]:
    batch = Batch.from_collated(data, torch.device("cpu"))
    teacher = arch.get_teacher_output(
        batch.global_crops, mask_indices_list=batch.mask_indices, teacher_temp=TEMP
    )
    student, local = arch.get_student_output(
        global_crops=batch.global_crops, local_crops=batch.local_crops, masks=batch.masks
    )
    return teacher, student, local, batch


def cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher * (student.double() / 0.1).log_softmax(-1)).sum(-1)


# ---- the loss -----------------------------------------------------------------------------------


def test_the_total_is_spec_4_3() -> None:
    """Two global and three local crops: 2 and 6 of 8 pairs."""
    arch = build()
    data = collated()
    loss, metrics = arch.forward_loss(data, teacher_temp=TEMP)
    with torch.no_grad():
        teacher, student, local, batch = outputs_of(arch, data)
    targets = teacher["cls_centered"].double()
    across = [cross_entropy(student["cls_after_head"][s], targets[t]).mean() for s, t in ((0, 1), (1, 0))]
    local_terms = [
        cross_entropy(local["cls_after_head"][s], targets[t]).mean() for s in range(N_LOCAL) for t in (0, 1)
    ]
    patches = cross_entropy(student["masked_patch_after_head"], teacher["masked_patch_centered"].double())
    counts = batch.masks.sum(1)
    ibot = sum(part.mean() for part in patches.split(counts.tolist()) if len(part)) / len(counts)
    koleo = torch.stack([KoLeoLoss()(crop) for crop in student["cls_pre_head"]]).mean()
    parts = {
        "dino_global_crops_loss": torch.stack(across).mean(),
        "dino_local_crops_loss": torch.stack(local_terms).mean(),
        "ibot_loss": ibot,
        "koleo_loss": koleo,
    }
    for name, wanted in parts.items():
        assert float(metrics[name]) == pytest.approx(float(wanted), rel=1e-5), name
    total = (
        2 / 8 * parts["dino_global_crops_loss"]
        + 6 / 8 * parts["dino_local_crops_loss"]
        + 0.1 * 2 * parts["koleo_loss"]
        + parts["ibot_loss"]
    )
    assert loss.item() == pytest.approx(float(total), rel=1e-5)
    assert metrics["local_batch_size"] == 4


def test_weights_of_the_losses() -> None:
    arch = build("dino.loss_weight=3", "dino.koleo_loss_weight=0", "ibot.loss_weight=0.5")
    loss, metrics = arch.forward_loss(collated(), teacher_temp=TEMP)
    wanted = (
        3 * (0.25 * metrics["dino_global_crops_loss"] + 0.75 * metrics["dino_local_crops_loss"])
        + 0.5 * metrics["ibot_loss"]
    )
    assert loss.item() == pytest.approx(float(wanted), rel=1e-6)
    assert "koleo_loss" not in metrics


def test_without_local_crops() -> None:
    data = collated()
    del data["collated_local_crops"]
    arch = build()
    loss, metrics = arch.forward_loss(data, teacher_temp=TEMP)
    wanted = metrics["dino_global_crops_loss"] + 0.2 * metrics["koleo_loss"] + metrics["ibot_loss"]
    assert loss.item() == pytest.approx(float(wanted), rel=1e-6)
    assert "dino_local_crops_loss" not in metrics


def test_the_local_weight_follows_its_schedule() -> None:
    ramp = "dino.local_loss_weight_schedule={start: 1.0, peak: 0.5, end: 0.5, warmup_epochs: 2}"
    arch = build("dino.reweight_dino_local_loss=true", ramp)
    weights = [arch.loss_weights.at(i, N_LOCAL).local_schedule for i in (0, 5, 10, 19)]
    assert weights == pytest.approx([1.0, 0.75, 0.5, 0.5])
    _, metrics = arch.forward_loss(collated(), teacher_temp=TEMP, iteration=5)
    assert metrics["dino_local_loss_weight"] == pytest.approx(0.75)


def test_softmax_centring() -> None:
    arch = build("train.centering=softmax_center")
    scores = arch.teacher["dino_head"](arch.teacher["backbone"](collated()["collated_global_crops"]))
    teacher, *_ = outputs_of(arch, collated())
    torch.testing.assert_close(teacher["cls_centered"].flatten(0, 1), (scores / TEMP).softmax(-1))
    torch.testing.assert_close(arch.dino_loss.center[0], 0.1 * scores.mean(0))
    assert arch.ibot_patch_loss.center.abs().sum() > 0
    arch.eval()
    before = arch.dino_loss.center.clone()
    outputs_of(arch, collated())
    assert torch.equal(arch.dino_loss.center, before)


# ---- gradients and precision --------------------------------------------------------------------


def test_only_and_all_student_parameters_get_gradients() -> None:
    arch = build("student.n_storage_tokens=2", "student.untie_global_and_local_cls_norm=true")
    loss, _ = arch.forward_backward(collated(), teacher_temp=TEMP)
    assert not loss.requires_grad
    assert [n for n, p in arch.student.named_parameters() if p.grad is None] == []
    assert [n for n, p in arch.model_ema.named_parameters() if p.grad is not None or p.requires_grad] == []


def test_gradients_are_those_of_the_loss() -> None:
    """Finite differences along the gradient, in fp64."""
    arch = build().double()
    data = {k: v.double() if v.is_floating_point() else v for k, v in collated().items()}
    loss, _ = arch.forward_backward(data, teacher_temp=TEMP)
    slope = sum(p.grad.square().sum() for p in arch.student.parameters() if p.grad is not None)
    step = 1e-6
    for parameter in arch.student.parameters():
        parameter.data += step * parameter.grad / math.sqrt(slope)
    with torch.no_grad():
        further, _ = arch.forward_loss(data, teacher_temp=TEMP)
    assert float(further - loss) / step == pytest.approx(math.sqrt(slope), rel=1e-3)


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_half_precision_is_close(kind: str) -> None:
    arch = build(f"compute_precision.param_dtype={kind}")
    exact, _ = arch.forward_loss(collated(), teacher_temp=TEMP)
    with autocast(arch.config, "cpu"):
        loss, _ = arch.forward_backward(collated(), teacher_temp=TEMP)
    assert loss.dtype == torch.float32
    assert loss.item() != exact.item()
    assert loss.item() == pytest.approx(exact.item(), rel=2e-2)  # measured 2e-3
    assert all(p.grad is not None and p.grad.isfinite().all() for p in arch.student.parameters())


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    arch = SSLMetaArch(tiny_training()).train()
    optimizer = torch.optim.AdamW(arch.student.parameters(), lr=3e-3)
    data, losses = collated(), []
    for iteration in range(30):
        optimizer.zero_grad()
        loss, _ = arch.forward_backward(data, teacher_temp=TEMP)
        optimizer.step()
        arch.after_step(iteration, momentum=0.9)
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3  # measured 0.43


# ---- inputs of student and teacher --------------------------------------------------------------


def test_the_student_sees_masks_and_the_teacher_does_not() -> None:
    arch = build()
    data = collated()
    teacher, student, _, batch = outputs_of(arch, data)
    plain = arch.teacher["backbone"](batch.global_crops, is_training=True)["x_norm_patchtokens"]
    torch.testing.assert_close(teacher["patch_pre_head"], plain)
    masked = arch.student["backbone"](batch.global_crops, batch.masks, is_training=True)
    torch.testing.assert_close(student["patch_pre_head"], masked["x_norm_patchtokens"])
    with_mask = masked["x_norm_patchtokens"][batch.masks]
    torch.testing.assert_close(student["masked_patch_after_head"], arch.student["ibot_head"](with_mask))


def test_the_teacher_sees_its_own_crops() -> None:
    """Undistorted global crops, if given, make the targets (docs/spec.md 4.12)."""
    arch = build()
    data = collated()
    seen: dict[str, Any] = {}
    for name in ("teacher", "student"):
        backbone = getattr(arch, name)["backbone"]
        backbone.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    undistorted = data["collated_global_crops"].flip(-2)
    arch.forward_loss(data | {"collated_global_crops_teacher": undistorted}, teacher_temp=TEMP)
    assert torch.equal(seen["teacher"], undistorted)
    assert torch.equal(seen["student"][0], data["collated_global_crops"])


def test_a_batch_without_any_mask() -> None:
    data = collated()
    data["collated_masks"] = torch.zeros_like(data["collated_masks"])
    arch = build()
    loss, metrics = arch.forward_backward(data, teacher_temp=TEMP)
    assert metrics["ibot_loss"] == 0
    assert loss.isfinite()


def test_optional_entries_of_the_loader_are_used() -> None:
    arch = build()
    data = collated()
    batch = Batch.from_collated(data, torch.device("cpu"))
    full = data | {
        "mask_indices_list": batch.mask_indices,
        "masks_weight": batch.masks_weight,
        "upperbound": len(batch.mask_indices),
        "n_masked_patches": torch.tensor([len(batch.mask_indices)]),
        "global_batch_size": 8,
    }
    loss, metrics = arch.forward_loss(full, teacher_temp=TEMP)
    assert loss.item() == arch.forward_loss(data, teacher_temp=TEMP)[0].item()
    assert metrics["global_batch_size"] == 8
    doubled, _ = arch.forward_loss(full | {"masks_weight": 2 * batch.masks_weight}, teacher_temp=TEMP)
    assert doubled.item() == pytest.approx(loss.item() + float(metrics["ibot_loss"]), rel=1e-5)


def test_batches_that_do_not_fit() -> None:
    arch = build()
    with pytest.raises(ValueError, match="the batch has images; wanted collated_global_crops"):
        arch.forward_loss({"images": torch.zeros(1)}, teacher_temp=TEMP)
    data = collated()
    data["collated_masks"] = data["collated_masks"][:-1]
    with pytest.raises(ValueError, match="8 global crops with 7 masks"):
        arch.forward_loss(data, teacher_temp=TEMP)


def test_parameter_groups_cover_the_student_once() -> None:
    arch = build("optim.dino_head_wd_multiplier=0.5")
    groups = arch.get_params_groups()
    assert [g["name"] for g in groups] == [n for n, _ in arch.student.named_parameters()]
    by_name = {g["name"]: g for g in groups}
    assert by_name["dino_head.mlp.0.weight"]["wd_multiplier"] == 0.5  # has no effect in the official code
    assert by_name["ibot_head.mlp.0.weight"]["wd_multiplier"] == 1
    assert by_name["backbone.blocks.0.attn.qkv.weight"]["lr_multiplier"] == pytest.approx(0.9**2)
