"""The seed document's training snippets, with `dinov3` read as `dinov3_ref` (SEED S41-S51, S54-S56, S59-S62).

Where SPEC 8.1 says that a snippet fails in the official code, the test's docstring says what holds here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.layers.dino_head import DINOHead
from dinov3_ref.loss import DINOLoss, KoLeoLoss, iBOTPatchLoss
from dinov3_ref.models import build_model_from_cfg, vit_large, vit_small
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from dinov3_ref.train.activation_checkpointing import checkpoint_activations
from dinov3_ref.train.param_groups import get_params_groups_with_decay_fsdp
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.photographs import pixels
from tests.toy_training import collated, tiny_training

SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model() -> SSLMetaArch:
    torch.manual_seed(0)
    return SSLMetaArch(tiny_training()).train()


@pytest.fixture
def dataloader() -> Iterator[dict[str, Any]]:
    return iter([collated()] * 4)


# ---- losses: S41-S46 ----------------------------------------------------------------------------


def test_s41_to_s46_losses() -> None:
    """S42, S44 and S45 fail in the official code: two dimensions, `out_dim` for iBOT, no masks."""
    dino_loss = DINOLoss(out_dim=48)
    koleo_loss = KoLeoLoss()
    ibot_loss = iBOTPatchLoss(out_dim=48)
    student_logits, teacher_probs = draw(4, 48).requires_grad_(), draw(4, 48, seed=1).softmax(-1)
    student_features = draw(4, 16, seed=2).requires_grad_()
    student_patches, teacher_patches = draw(4, 6, 48).requires_grad_(), draw(4, 6, 48, seed=3).softmax(-1)
    total_loss = (
        1.0 * dino_loss(student_logits, teacher_probs)
        + 0.1 * koleo_loss(student_features)
        + 1.0 * ibot_loss(student_patches, teacher_patches)
    )
    total_loss.backward()
    assert total_loss.isfinite()
    for given in (student_logits, student_features, student_patches):
        assert given.grad is not None
        assert given.grad.abs().sum() > 0


# ---- the architecture: S47-S51 ------------------------------------------------------------------


def test_s47_the_parts(model: SSLMetaArch) -> None:
    """In the official code this wants CUDA and a process group."""
    for side in (model.student, model.teacher):
        assert isinstance(side.backbone, DinoVisionTransformer)
        assert isinstance(side.dino_head, DINOHead)
        assert isinstance(side.ibot_head, DINOHead)
    assert isinstance(model.dino_loss, DINOLoss)
    assert isinstance(model.koleo_loss, KoLeoLoss)
    assert isinstance(model.ibot_patch_loss, iBOTPatchLoss)


def test_s48_build_model_from_cfg() -> None:
    student_backbone, teacher_backbone, embed_dim = build_model_from_cfg(tiny_training())
    assert embed_dim == student_backbone.embed_dim == teacher_backbone.embed_dim == 32


def test_s49_forward_backward(model: SSLMetaArch) -> None:
    """The three entries of the document's batch are enough; the official code wants five more."""
    data = collated()
    assert sorted(data) == ["collated_global_crops", "collated_local_crops", "collated_masks"]
    total_loss, loss_dict = model.forward_backward(data, teacher_temp=0.04, iteration=0)
    assert total_loss.isfinite()
    assert {"dino_global_crops_loss", "dino_local_crops_loss", "koleo_loss", "ibot_loss"} <= set(loss_dict)
    assert all(parameter.grad is not None for parameter in model.student.parameters())


def test_s50_step_by_step(model: SSLMetaArch) -> None:
    data = collated()
    global_crops, local_crops = data["collated_global_crops"], data["collated_local_crops"]
    masks = data["collated_masks"]
    teacher_output = model.get_teacher_output(
        global_crops, mask_indices_list=masks.flatten().nonzero().flatten(), teacher_temp=0.04
    )
    student_global, student_local = model.get_student_output(
        global_crops=global_crops, local_crops=local_crops, masks=masks
    )
    total_loss, _ = model.compute_losses(
        teacher_global=teacher_output,
        student_global=student_global,
        student_local=student_local,
        masks=masks,
    )
    wanted, _ = model.forward_loss(data, teacher_temp=0.04)
    assert total_loss.item() == pytest.approx(wanted.item())
    total_loss.backward()


def test_s51_update_ema(model: SSLMetaArch) -> None:
    for param_s in model.student.parameters():
        param_s.data += 1
    wanted = [
        0.996 * param_t + (1 - 0.996) * param_s
        for param_s, param_t in zip(model.student.parameters(), model.teacher.parameters(), strict=True)
    ]
    model.update_ema(0.996)
    torch.testing.assert_close(list(model.teacher.parameters()), wanted, check_stride=False)


# ---- training loops: S54-S56 --------------------------------------------------------------------


def test_s54_mixed_precision(model: SSLMetaArch) -> None:
    """`forward_loss` where the document says `forward_backward`, which has gone backward already."""
    scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.AdamW(model.student.parameters(), lr=1e-4)
    before = model.student.backbone.cls_token.detach().clone()
    for data in [collated()] * 8:  # of which the scaler skips six, halving its 65536 to 1024
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss, _metrics = model.forward_loss(data, teacher_temp=0.04)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert not torch.equal(model.student.backbone.cls_token, before)


def test_s54_a_second_backward_pass_is_refused(model: SSLMetaArch) -> None:
    loss, _ = model.forward_backward(collated(), teacher_temp=0.04)
    with pytest.raises(RuntimeError, match="does not require grad"):
        loss.backward()


def test_s55_gradient_accumulation(model: SSLMetaArch, dataloader: Iterator[dict[str, Any]]) -> None:
    """Four times the same batch, each a quarter: the gradient of one."""
    model.forward_backward(collated(), teacher_temp=0.04)
    wanted = [parameter.grad.clone() for parameter in model.student.parameters()]
    model.student.zero_grad()
    accumulation_steps = 4
    for data in dataloader:
        loss, _metrics = model.forward_loss(data, teacher_temp=0.04)
        loss = loss / accumulation_steps
        loss.backward()
    got = [parameter.grad for parameter in model.student.parameters()]
    torch.testing.assert_close(got, wanted)


def test_s56_layerwise_decay() -> None:
    """The snippet as written runs; `lr` beside it makes the multipliers act without a scheduler."""
    model = DinoVisionTransformer(**SMALL)
    groups = get_params_groups_with_decay_fsdp(model=model, lr_decay_rate=0.65, patch_embed_lr_mult=0.2)
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-4}

    param_groups = get_params_groups_with_decay_fsdp(
        model=model, lr_decay_rate=0.65, patch_embed_lr_mult=0.2, lr=1e-4
    )
    rates = {g["name"]: g["lr"] for g in torch.optim.AdamW(param_groups, lr=1e-4).param_groups}
    assert rates["norm.weight"] == pytest.approx(1e-4)
    assert rates["blocks.0.attn.qkv.weight"] == pytest.approx(1e-4 * 0.65**2)
    assert rates["patch_embed.proj.weight"] == pytest.approx(1e-4 * 0.65**3 * 0.2)


# ---- questions: S59-S62 -------------------------------------------------------------------------


def test_s59_freezing(model: SSLMetaArch) -> None:
    for parameter in model.student.backbone.blocks[0].parameters():
        parameter.requires_grad = False
    model.forward_backward(collated(), teacher_temp=0.04)
    assert all(p.grad is None for p in model.student.backbone.blocks[0].parameters())
    assert all(p.grad is not None for p in model.student.backbone.blocks[1].parameters())
    assert not any("blocks.0." in group["name"] for group in model.get_params_groups())


def test_s60_gradient_checkpointing() -> None:
    """The document's class feeds pixels to the blocks; here a model is switched over."""
    model = DinoVisionTransformer(**SMALL)
    x = pixels(["coffee", "china"], 32, 48)
    wanted = model(x)
    checkpoint_activations(model, full=True)
    got = model(x)
    torch.testing.assert_close(got, wanted)
    got.sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if n != "mask_token")


def test_s61_a_smaller_model_and_batch() -> None:
    count = [sum(p.numel() for p in build(device="meta").parameters()) for build in (vit_small, vit_large)]
    assert count[0] < count[1] / 10
    model = SSLMetaArch(tiny_training("train.batch_size_per_gpu=2")).train()
    loss, metrics = model.forward_backward(collated(images=2), teacher_temp=0.04)
    assert loss.isfinite()
    assert metrics["local_batch_size"] == 2


def test_s62_saving_and_loading(model: SSLMetaArch, tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW(model.student.parameters(), lr=1e-3)
    model.forward_backward(collated(), teacher_temp=0.04)
    optimizer.step()
    torch.save(
        {
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "epoch": 3,
        },
        tmp_path / "checkpoint.pth",
    )
    again = SSLMetaArch(tiny_training()).train()
    optimizer_again = torch.optim.AdamW(again.student.parameters(), lr=1e-3)
    checkpoint = torch.load(tmp_path / "checkpoint.pth")
    again.load_state_dict(checkpoint["model_state_dict"])
    optimizer_again.load_state_dict(checkpoint["optimizer_state_dict"])
    assert checkpoint["epoch"] == 3
    for arch, stepper in ((model, optimizer), (again, optimizer_again)):
        stepper.zero_grad()
        arch.forward_backward(collated(), teacher_temp=0.04)
        stepper.step()
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = list(
        zip(model.student.parameters(), again.student.parameters(), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in pairs)
