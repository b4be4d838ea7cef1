"""The schedules of the published dense evaluations, by hand (docs/spec.md 5.4, 5.6)."""

from __future__ import annotations

import math

import pytest

from dinov3_ref.eval.dense.schedule import OneCycle


def test_segmentation() -> None:
    """40,000 steps, 1,500 of them warm-up from a millionth of the rate; one step behind."""
    plan = OneCycle(1e-3, 40000, 1500 / 40000, ratio=1e-6, lag=1)
    assert plan.at(0) == plan.at(1)
    assert plan.at(0) == pytest.approx((1e-9, 0.0))
    share = 1 - (1 - 749 / 1500) * (1 - 1e-6)
    assert plan.at(750)[0] == pytest.approx(1e-3 * share * (1 - 749 / 40000))
    low = 1e-3 / 25000
    rate = low + (1e-3 - low) / 2 * (1 + math.cos(math.pi * 1501 / 40000))
    assert plan.at(1501) == pytest.approx((rate, 0.85))  # the first after the warm-up
    assert plan.at(40000)[0] == pytest.approx(low, rel=1e-3)


def test_depth() -> None:
    """38,400 steps, a third of them warm-up from a thousandth of the rate."""
    plan = OneCycle(3e-4, 38400, 1 / 3)
    assert plan.at(0) == pytest.approx((3e-7, 0.0))
    rate = 3e-7 + 3e-4 / 2 * (1 + math.cos(math.pi * 6400 / 38400)) * 0.5
    assert plan.at(6400) == pytest.approx((rate, 0.0))
    assert plan.at(12800)[1] == 0.85
    assert plan.at(38399)[1] == pytest.approx(0.95, abs=1e-6)
    assert plan.at(38399)[0] == pytest.approx(3e-4 / 25000)


def test_short_runs_have_the_same_shape() -> None:
    short, long = OneCycle(1.0, 30, 1 / 3), OneCycle(1.0, 3000, 1 / 3)
    assert short.at(20)[0] == pytest.approx(long.at(2000)[0], abs=0.05)
    assert OneCycle(1.0, 1, 1 / 3).at(0)[0] < 1e-4
