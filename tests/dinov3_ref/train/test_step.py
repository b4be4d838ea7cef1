"""The training step: skipped for NaN and infinity, gradient accumulation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinov3_ref.data import build_training_loader
from dinov3_ref.errors import TrainingDiverged
from dinov3_ref.train.loop import TrainingRun
from dinov3_ref.train.schedules.rates import Rates
from dinov3_ref.train.step import FiniteGuard
from tests.support.toy_training import tiny_run

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
