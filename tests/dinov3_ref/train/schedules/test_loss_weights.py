"""Shares of crop pairs and loss weights (docs/spec.md 4.3)."""

from __future__ import annotations

import pytest

from dinov3_ref.train.schedules.loss_weights import LossWeightSchedule, crop_pair_shares
from tests.support.toy_training import tiny_training

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
