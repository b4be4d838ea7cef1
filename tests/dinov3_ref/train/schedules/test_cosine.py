"""Schedules v1 and v2: lengths, ends, and values by hand (docs/spec.md 4.9)."""

from __future__ import annotations

import math

import pytest

from dinov3_ref.errors import ConfigError
from dinov3_ref.train.schedules.cosine import (
    CosineScheduler,
    linear_warmup_cosine_decay,
    scale_learning_rate,
)


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
