"""Snippets about training (docs/development/seed.md, S47-S57)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3_ref.data.collate import collate_data_and_cast
from dinov3_ref.data.masking import MaskingGenerator
from dinov3_ref.errors import ConfigError
from dinov3_ref.layers.dino_head import DINOHead
from dinov3_ref.loss import DINOLoss, KoLeoLoss, iBOTPatchLoss
from dinov3_ref.models import attention_maps, build_model_from_cfg, record_attention
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.compatibility.snippets import SMALL
from tests.compatibility.test_parts import CustomAttention
from tests.support.images.photographs import photograph, pixels
from tests.support.training.toy_training import collated, tiny_training


@pytest.fixture
def model() -> SSLMetaArch:
    torch.manual_seed(0)
    return SSLMetaArch(tiny_training()).train()


@pytest.fixture
def dataloader() -> Iterator[dict[str, Any]]:
    return iter([collated()] * 4)


def test_S47_the_parts(model: SSLMetaArch) -> None:
    """The official code needs CUDA and a process group for this."""
    for side in (model.student, model.teacher):
        assert isinstance(side.backbone, DinoVisionTransformer)
        assert isinstance(side.dino_head, DINOHead)
        assert isinstance(side.ibot_head, DINOHead)
    assert isinstance(model.dino_loss, DINOLoss)
    assert isinstance(model.koleo_loss, KoLeoLoss)
    assert isinstance(model.ibot_patch_loss, iBOTPatchLoss)


def test_S48_build_model_from_cfg() -> None:
    student_backbone, teacher_backbone, embed_dim = build_model_from_cfg(tiny_training())
    assert embed_dim == student_backbone.embed_dim == teacher_backbone.embed_dim == 32


def test_S49_forward_backward(model: SSLMetaArch) -> None:
    """The three entries of the document's batch are enough; the official code needs five more."""
    data = collated()
    assert sorted(data) == ["collated_global_crops", "collated_local_crops", "collated_masks"]
    total_loss, loss_dict = model.forward_backward(data, teacher_temp=0.04, iteration=0)
    assert total_loss.isfinite()
    assert {"dino_global_crops_loss", "dino_local_crops_loss", "koleo_loss", "ibot_loss"} <= set(loss_dict)
    assert all(parameter.grad is not None for parameter in model.student.parameters())


def test_S50_step_by_step(model: SSLMetaArch) -> None:
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


def test_S51_update_ema(model: SSLMetaArch) -> None:
    for param_s in model.student.parameters():
        param_s.data += 1
    wanted = [
        0.996 * param_t + (1 - 0.996) * param_s
        for param_s, param_t in zip(model.student.parameters(), model.teacher.parameters(), strict=True)
    ]
    model.update_ema(0.996)
    torch.testing.assert_close(list(model.teacher.parameters()), wanted, check_stride=False)


def test_S52_views_of_an_image() -> None:
    from dinov3_ref.data import DataAugmentationDINO

    image = photograph("chelsea")
    data_aug = DataAugmentationDINO(
        global_crops_scale=(0.4, 1.0),  # scale range of global crops
        local_crops_scale=(0.05, 0.4),  # scale range of local crops
        local_crops_number=8,  # number of local crops
        global_crops_size=224,  # size of global crops
        local_crops_size=96,  # size of local crops
    )
    augmented_data = data_aug(image)
    assert [crop.shape for crop in augmented_data["global_crops"]] == [(3, 224, 224)] * 2
    assert [crop.shape for crop in augmented_data["local_crops"]] == [(3, 96, 96)] * 8


def test_S53_masks_of_the_views() -> None:
    """Masks are drawn per batch, as in the published code: mask sizes depend on the other images."""
    from dinov3_ref.data import DataAugmentationDINO

    data_aug = DataAugmentationDINO((0.4, 1.0), (0.05, 0.4), 8, global_crops_size=224, local_crops_size=96)
    batch = collate_data_and_cast(
        [(data_aug(photograph("chelsea")), ())] * 4,
        mask_ratio_tuple=(0.1, 0.5),
        mask_probability=0.5,
        dtype=torch.float32,
        mask_generator=MaskingGenerator(14, max_num_patches=98),
    )
    assert batch["collated_global_crops"].shape == (8, 3, 224, 224)
    assert batch["collated_local_crops"].shape == (32, 3, 96, 96)
    assert sorted(batch["collated_masks"].sum(1).tolist()) == [0, 0, 0, 0, 39, 58, 78, 98]


def test_S54_mixed_precision(model: SSLMetaArch) -> None:
    """With `forward_loss`; the document's `forward_backward` already runs the backward pass."""
    scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.AdamW(model.student.parameters(), lr=1e-4)
    before = model.student.backbone.cls_token.detach().clone()
    for data in [collated()] * 8:  # the scaler skips six, halving 65536 to 1024
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss, _metrics = model.forward_loss(data, teacher_temp=0.04)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert not torch.equal(model.student.backbone.cls_token, before)
    loss, _ = model.forward_backward(collated(), teacher_temp=0.04)
    with pytest.raises(RuntimeError, match="does not require grad"):
        loss.backward()


def test_S55_gradient_accumulation(model: SSLMetaArch, dataloader: Iterator[dict[str, Any]]) -> None:
    """Four times the same batch with a quarter of its loss: the gradient of one batch."""
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


def test_S56_layerwise_decay() -> None:
    """Runs as written; with `lr=` the multipliers apply without a scheduler.

    0.65 is what is left for the layer below, not what is taken.
    """
    from dinov3_ref.train.param_groups import get_params_groups_with_decay_fsdp

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


def visualize_attention(model: Any, image: Tensor, layer_idx: int = -1) -> list[Tensor]:
    """S57, as written."""
    with torch.no_grad():
        attention_weights = []

        def hook_fn(module: Any, input: Any, output: Tensor) -> None:
            attention_weights.append(output)

        handle = model.blocks[layer_idx].attn.register_forward_hook(hook_fn)

        _ = model(image)

        handle.remove()

    return attention_weights


@pytest.mark.parametrize("layer_idx", [-1, 0])
def test_S57_attention_maps(layer_idx: int) -> None:
    """The hook sees the output of attention. `attention_maps` returns the weights that produce it."""
    model = DinoVisionTransformer(**SMALL, n_storage_tokens=4).eval()
    attn = model.blocks[layer_idx].get_submodule("attn")
    attn.qkv.weight.data *= 20  # random weights attend to all tokens equally
    image = pixels(["coffee", "china"], 48, 80)
    before = model(image)
    (output,) = visualize_attention(model, image, layer_idx)
    weights = attention_maps(model, image, layer_idx)
    assert weights.shape == (2, 2, 20, 20)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 20))

    given: list[Tensor] = []
    handle = attn.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with record_attention(model, [0, 1]) as both:
        assert torch.equal(model(image), before), "looking changes nothing"
    assert torch.equal(both[layer_idx % 2], weights)
    handle.remove()
    values = attn.qkv(given[0]).unflatten(-1, (3, 2, 32))[:, :, 2].transpose(1, 2)
    torch.testing.assert_close(attn.proj((weights @ values).transpose(1, 2).flatten(2)), output)

    maps = attention_maps(model, image, layer_idx, patches_only=True)
    torch.testing.assert_close(maps, weights[:, :, 0, 5:].unflatten(-1, (3, 5)))
    with pytest.raises(ValueError, match=r"blocks 0\.\.1"):
        attention_maps(model, image, 2)
    with pytest.raises(ConfigError, match=r"call model\.eval"):
        attention_maps(model.train(), image)
    own = DinoVisionTransformer(**SMALL, attn_class=CustomAttention).eval()
    with pytest.raises(ConfigError, match="weights are unknown"):
        attention_maps(own, image)
