"""The training step: skipped for NaN and infinity, gradient accumulation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dinov3_ref.data import build_training_loader
from dinov3_ref.errors import TrainingDiverged
from dinov3_ref.train.loop import TrainingRun
from dinov3_ref.train.schedules import Rates
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from dinov3_ref.train.step import FiniteGuard, build_optimizer, clip_gradients, set_rates
from tests.support.training.toy_training import collated, tiny_run, tiny_training

GOOD, NAN, INF = torch.tensor(1.0), torch.tensor(float("nan")), torch.tensor(float("inf"))


def test_two_bad_steps_in_a_row_are_skipped_three_are_an_error() -> None:
    guard = FiniteGuard()
    allowed = [guard.allows(loss) for loss in (GOOD, NAN, INF, GOOD, NAN, NAN)]
    assert allowed == [True, False, False, True, False, False]
    with pytest.raises(TrainingDiverged, match=r"3 steps in a row \(loss nan\); lower optim.lr"):
        guard.allows(NAN)


def test_gradients_are_checked_too() -> None:
    assert not FiniteGuard().allows(GOOD, {"backbone_grad_norm": INF, "dino_head_grad_norm": GOOD})
    assert FiniteGuard().allows(GOOD, {"backbone_grad_norm": GOOD})


RATES = Rates(lr=1e-3, last_layer_lr=1e-3, weight_decay=0.04, momentum=0.9, teacher_temp=0.05)


def test_accumulated_batches_are_averaged(photos: Path, tmp_path: Path) -> None:
    """One batch once, and the same batch three times in one step."""
    results = []
    for parts in (1, 3):
        config = tiny_run(photos, tmp_path / str(parts), f"train.accumulation_steps={parts}")
        training = TrainingRun(config, build_training_loader(config))
        batch = next(iter(training.loader))
        metrics = training.step(iter([batch] * parts), 0, RATES)
        gradients = {n: p.grad for n, p in training.arch.student.named_parameters()}
        results.append((metrics, gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


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
