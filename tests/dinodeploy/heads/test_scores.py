"""Scores of a head, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.heads.scores import (
    accuracy,
    balanced_accuracy,
    chance,
    confusion,
    intersection_over_union,
    summary,
)


def test_scores_by_hand() -> None:
    counts = confusion(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2]), 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert accuracy(counts) == pytest.approx(3 / 5)
    assert balanced_accuracy(counts) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert chance(counts) == pytest.approx(3 / 5)
    each, mean = intersection_over_union(counts)
    assert each == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0, None]
    assert mean == pytest.approx(1 / 3)
    assert summary(counts) == {
        "accuracy": accuracy(counts),
        "balanced_accuracy": balanced_accuracy(counts),
        "chance": chance(counts),
        "confusion": counts.tolist(),
    }
