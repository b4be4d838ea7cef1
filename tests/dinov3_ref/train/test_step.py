"""NaN and infinity: the step is skipped, and training ends when it stays so."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.errors import TrainingDiverged
from dinov3_ref.train.step import FiniteGuard

GOOD, NAN, INF = torch.tensor(1.0), torch.tensor(float("nan")), torch.tensor(float("inf"))


def test_two_in_a_row_are_forgiven_and_a_good_one_begins_anew() -> None:
    guard = FiniteGuard()
    said = [guard.allows(loss) for loss in (GOOD, NAN, INF, GOOD, NAN, NAN)]
    assert said == [True, False, False, True, False, False]
    with pytest.raises(TrainingDiverged, match=r"3 steps in a row \(loss nan\); lower optim.lr"):
        guard.allows(NAN)


def test_a_gradient_counts_as_well() -> None:
    assert not FiniteGuard().allows(GOOD, {"backbone_grad_norm": INF, "dino_head_grad_norm": GOOD})
    assert FiniteGuard().allows(GOOD, {"backbone_grad_norm": GOOD})
