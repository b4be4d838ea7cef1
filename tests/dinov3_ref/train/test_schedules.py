"""Schedules v1 and v2: lengths, ends, and values by hand (docs/spec.md 4.9)."""

from __future__ import annotations

import math

import pytest

from dinov3_ref.errors import ConfigError
from dinov3_ref.train.schedules import (
    CosineScheduler,
    LossWeightSchedule,
    build_rates,
    crop_pair_shares,
    linear_warmup_cosine_decay,
    scale_learning_rate,
)
from tests.support.training.toy_training import tiny_training


def values(schedule: CosineScheduler) -> list[float]:
    return [schedule[i] for i in range(schedule.total_iters)]


def test_v1_by_hand() -> None:
    """Two frozen values, a warm-up including its end, a cosine of four values that does not reach its end."""
    schedule = CosineScheduler(1.0, 0.2, 9, warmup_iters=3, start_warmup_value=0.5, freeze_iters=2)
    fall = [0.2 + 0.4 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]
    assert values(schedule) == pytest.approx([0, 0, 0.5, 0.75, 1.0, *fall])
    assert fall[0] == 1.0
    assert schedule[9] == schedule[1000] == 0.2


def test_v1_only_warm_up() -> None:
    """The teacher's temperature: 0.04 to 0.07 inclusive, then constant."""
    schedule = CosineScheduler(0.07, 0.07, 4, warmup_iters=4, start_warmup_value=0.04)
    assert values(schedule) == pytest.approx([0.04, 0.05, 0.06, 0.07])
    assert schedule[4] == 0.07


def test_v1_truncated_cosine_keeps_its_ends() -> None:
    """Computed for 15 values and cut after 10: flatter at the end, but from base to final."""
    cut = values(CosineScheduler(1.0, 0.2, 10, trunc_extra=0.5))
    assert (cut[0], cut[-1]) == pytest.approx((1.0, 0.2))
    raw = [(1 + math.cos(math.pi * i / 15)) / 2 for i in range(10)]
    assert cut[4] == pytest.approx(0.2 + 0.8 * (raw[4] - raw[9]) / (1 - raw[9]))


def test_v1_phases_must_fit() -> None:
    with pytest.raises(ConfigError, match="of 5 iterations has 2 frozen and 4 warm-up"):
        CosineScheduler(1.0, 0.0, 5, warmup_iters=4, freeze_iters=2)


def test_v2_by_hand() -> None:
    """A warm-up without its end, a cosine with both ends, then the end value."""
    got = linear_warmup_cosine_decay(0.0, 1.0, 0.2, 4, 12, cosine_iterations=5)
    fall = [0.2 + 0.4 * (1 + math.cos(math.pi * i / 4)) for i in range(5)]
    assert got.tolist() == pytest.approx([0, 0.25, 0.5, 0.75, *fall, 0.2, 0.2, 0.2])


@pytest.mark.parametrize(("warmup", "cosine"), [(0, None), (3, None), (12, None), (3, 0), (3, 9)])
def test_v2_is_exactly_as_long_as_training(warmup: int, cosine: int | None) -> None:
    assert len(linear_warmup_cosine_decay(0.0, 1.0, 0.2, warmup, 12, cosine)) == 12


def test_v2_phases_must_fit() -> None:
    with pytest.raises(ConfigError, match="has 5 warm-up and 8 cosine"):
        linear_warmup_cosine_decay(0, 1, 0, 5, 12, 8)
    with pytest.raises(ConfigError, match="has 13 warm-up"):
        linear_warmup_cosine_decay(0, 1, 0, 13, 12)


def test_scaling_rules() -> None:
    """docs/spec.md 4.9's two examples: im1k ViT-L at batch 2048, the 7B at 4096."""
    assert scale_learning_rate(1e-3, "sqrt_wrt_1024", 2048) == pytest.approx(5.657e-3, rel=1e-4)
    assert scale_learning_rate(5e-5, "sqrt_wrt_1024", 4096) == pytest.approx(4e-4)
    assert scale_learning_rate(1e-3, "linear_wrt_256", 512) == pytest.approx(2e-3)
    assert scale_learning_rate(1e-3, "none", 512) == 1e-3
    with pytest.raises(ConfigError, match="'cubic'; wanted one of none, linear_wrt_256"):
        scale_learning_rate(1e-3, "cubic", 512)


SCHEDULES = (
    "schedules.lr={start: 1.0e-6, peak: 1.0e-3, end: 1.0e-4, warmup_epochs: 1, freeze_last_layer_epochs: 2}",
    "schedules.weight_decay={start: 0.04, peak: 0.04, end: 0.04}",
    "schedules.momentum={start: 0.994, peak: 0.994, end: 1.0, cosine_epochs: 2}",
    "schedules.teacher_temp={start: 0.04, peak: 0.07, end: 0.07, warmup_epochs: 2}",
)


def test_v1() -> None:
    """Four epochs of five: warm-up 5, temperature 10, the last layer frozen for 5; batch 4 on 2 ranks."""
    rates = build_rates(tiny_training(), world_size=2)
    assert rates.total_iterations == 20
    peak = 1e-3 * 4 * (8 / 1024) ** 0.5
    assert rates.at(0).lr == 0
    assert rates.at(4).lr == pytest.approx(peak)
    assert rates.at(5).lr == pytest.approx(peak)
    assert rates.at(19).lr > 1e-6
    assert [rates.at(i).last_layer_lr for i in (0, 4)] == [0, 0]
    assert rates.at(5).last_layer_lr == rates.at(5).lr
    assert rates.at(0).weight_decay == pytest.approx(0.04)
    assert rates.at(10).weight_decay == pytest.approx((0.04 + 0.4) / 2)
    assert rates.at(0).momentum == pytest.approx(0.992)
    assert rates.at(10).momentum == pytest.approx(0.996)
    assert [rates.at(i).teacher_temp for i in (0, 9, 10, 19)] == pytest.approx([0.04, 0.07, 0.07, 0.07])


def test_v1_defaults_are_spec_4_9() -> None:
    """100 epochs of 1250, warm-up 10, on 32 ranks of 64."""
    from dinov3_ref.configs import get_default_config

    rates = build_rates(get_default_config(), world_size=32)
    assert rates.total_iterations == 125_000
    assert rates.at(12_499).lr == pytest.approx(5.657e-3, rel=1e-4)
    assert [rates.at(i).last_layer_lr > 0 for i in (1249, 1250)] == [False, True]
    assert rates.at(37_499).teacher_temp == pytest.approx(0.07)
    assert rates.at(0).teacher_temp == pytest.approx(0.04)


def test_v2_replaces_v1() -> None:
    rates = build_rates(tiny_training(*SCHEDULES, "optim.lr=77.0"))
    factor = 4 * (4 / 1024) ** 0.5
    assert rates.at(0).lr == pytest.approx(1e-6)  # the start is not scaled
    assert rates.at(5).lr == pytest.approx(1e-3 * factor)
    assert rates.at(19).lr == pytest.approx(1e-4 * factor)
    assert [rates.at(i).last_layer_lr > 0 for i in (9, 10)] == [False, True]
    assert rates.at(7).weight_decay == pytest.approx(0.04)
    assert [rates.at(i).momentum for i in (0, 9, 19)] == pytest.approx([0.994, 1.0, 1.0])
    assert [rates.at(i).teacher_temp for i in (0, 5, 10)] == pytest.approx([0.04, 0.055, 0.07])


def test_gradient_accumulation_counts_as_batch() -> None:
    twice = build_rates(tiny_training("train.accumulation_steps=2"))
    assert twice.at(5).lr == pytest.approx(build_rates(tiny_training(), world_size=2).at(5).lr)


@pytest.mark.parametrize("overrides", [(), SCHEDULES])
def test_after_the_last_iteration(overrides: tuple[str, ...]) -> None:
    with pytest.raises(IndexError):
        build_rates(tiny_training(*overrides)).at(20)


GRAM = ("gram.use_loss=true", "gram.ema_teacher=true", "gram.rep_update=false")


@pytest.mark.parametrize(
    ("n_local", "ignore_diagonal", "local", "global_"),
    [(8, True, 8 / 9, 1 / 9), (8, False, 16 / 20, 4 / 20), (0, True, 0, 1), (3, True, 6 / 8, 2 / 8)],
)
def test_shares(n_local: int, ignore_diagonal: bool, local: float, global_: float) -> None:
    assert crop_pair_shares(2, n_local, ignore_diagonal) == pytest.approx((local, global_))


def test_defaults() -> None:
    """Effective weights with 2 + 8 crops: 8/9, 1/9, 0.1 twice, 1; no Gram."""
    weights = LossWeightSchedule(tiny_training()).at(0, 8)
    got = (weights.dino_local, weights.dino_global, weights.koleo, weights.ibot, weights.gram)
    assert got == pytest.approx((8 / 9, 1 / 9, 0.2, 1, 0))


def test_gram_weight() -> None:
    assert LossWeightSchedule(tiny_training(*GRAM, "gram.loss_weight=2.0")).at(3, 8).gram == 2
    ramp = "gram.loss_weight_schedule={start: 0.0, peak: 2.0, end: 1.0, warmup_epochs: 2, cosine_epochs: 1}"
    schedule = LossWeightSchedule(tiny_training(*GRAM, ramp))
    assert [schedule.at(i, 8).gram for i in (0, 5, 10, 14, 15, 19)] == pytest.approx([0, 1, 2, 1, 1, 1])


def test_dino_weights() -> None:
    config = tiny_training("dino.loss_weight=2.0", "dino.global_ignore_diagonal=false")
    weights = LossWeightSchedule(config).at(0, 8)
    assert (weights.dino_local, weights.dino_global) == pytest.approx((2 * 0.8, 2 * 0.2))
