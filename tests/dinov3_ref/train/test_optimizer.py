"""AdamW groups, rates of a step, clipping per module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dinov3_ref.train.optimizer import build_optimizer, clip_gradients, set_rates
from dinov3_ref.train.schedules.rates import Rates
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.support.toy_training import collated, tiny_training

RATES = Rates(lr=1e-2, last_layer_lr=0.0, weight_decay=0.1, momentum=0.9, teacher_temp=0.04)


@pytest.mark.parametrize("fused", ["true", "false"])
def test_rates_reach_the_groups(fused: str) -> None:
    config = tiny_training(f"optim.multi_tensor_optim={fused}", "optim.adamw_beta2=0.99")
    arch = SSLMetaArch(config)
    optimizer = build_optimizer(config, arch.get_params_groups())
    set_rates(optimizer, RATES)
    by_parameter = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    names = dict(arch.student.named_parameters())
    qkv = by_parameter[id(names["backbone.blocks.0.attn.qkv.weight"])]
    assert (qkv["lr"], qkv["weight_decay"]) == pytest.approx((1e-2 * 0.9**2, 0.1))
    patches = by_parameter[id(names["backbone.patch_embed.proj.bias"])]
    assert (patches["lr"], patches["weight_decay"]) == pytest.approx((1e-2 * 0.9**3 * 0.2, 0))
    assert by_parameter[id(names["dino_head.last_layer.weight"])]["lr"] == 0
    assert qkv["betas"] == (0.9, 0.99)


def test_a_frozen_last_layer_does_not_change() -> None:
    config = tiny_training()
    arch = SSLMetaArch(config).train()
    optimizer = build_optimizer(config, arch.get_params_groups())
    before = {name: p.detach().clone() for name, p in arch.student.named_parameters()}
    set_rates(optimizer, RATES)
    arch.forward_backward(collated(), teacher_temp=RATES.teacher_temp)
    optimizer.step()
    still = [name for name, p in arch.student.named_parameters() if torch.equal(p, before[name])]
    assert still == ["dino_head.last_layer.weight", "ibot_head.last_layer.weight"]


def with_gradient(*values: float) -> nn.Module:
    module = nn.Linear(len(values), 1, bias=False)
    module.weight.grad = torch.tensor([values])
    return module


def test_each_module_is_clipped_separately() -> None:
    modules = nn.ModuleDict({"backbone": with_gradient(3.0, 4.0), "dino_head": with_gradient(0.6, 0.8)})
    norms = clip_gradients(modules, 2.5)
    assert {name: norm.item() for name, norm in norms.items()} == pytest.approx(
        {"backbone_grad_norm": 5.0, "dino_head_grad_norm": 1.0}
    )
    assert modules["backbone"].weight.grad.tolist()[0] == pytest.approx([1.5, 2.0], rel=1e-5)
    assert modules["dino_head"].weight.grad.tolist()[0] == pytest.approx([0.6, 0.8])


def test_zero_means_no_clipping() -> None:
    module = with_gradient(3.0, 4.0)
    assert clip_gradients(nn.ModuleDict({"backbone": module}), 0.0)[
        "backbone_grad_norm"
    ].item() == pytest.approx(5.0)
    assert module.weight.grad.tolist() == [[3.0, 4.0]]
