"""Rates per iteration: schedules v1 and v2, and the frozen last layer."""

from __future__ import annotations

import pytest

from dinov3_ref.train.schedules.rates import build_rates
from tests.support.toy_training import tiny_training

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
