"""Choosing the penalty of a linear head."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.heads.fit import (
    Rows,
    balanced_accuracy,
    confusion,
    fit_head,
    intersection_over_union,
    one_hot,
    summary,
)


def test_penalty_is_chosen_on_validation_rows_and_balance_helps_the_rare_class() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(2000) < 0.04).astype(int)
    x = (rng.normal(size=(2000, 5)) + 1.2 * y[:, None]).astype(np.float32)
    parts = [
        Rows(x[s], one_hot(y[s], 2), np.ones(len(x[s]), np.float32)) for s in (slice(1000), slice(1000, 1500))
    ]
    recalls = {}
    for balance in ("balanced", "none"):
        fitted = fit_head(*parts, balance)  # type: ignore[arg-type]
        counts = confusion(y[1500:], fitted.linear.logits(x[1500:]).argmax(1), 2)
        recalls[balance] = counts[1, 1] / counts[1].sum()
        assert fitted.l2 in [l2 for l2, _ in fitted.tried]
        assert max(score for _, score in fitted.tried) == dict(fitted.tried)[fitted.l2]
    assert recalls["balanced"] > recalls["none"] + 0.2


def test_scores_by_hand() -> None:
    counts = confusion(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2]), 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert summary(counts)["accuracy"] == pytest.approx(3 / 5)
    assert balanced_accuracy(counts) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert summary(counts)["chance"] == pytest.approx(3 / 5)
    each, mean = intersection_over_union(counts)
    assert each == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0, None]
    assert mean == pytest.approx(1 / 3)
    assert summary(counts) == {
        "accuracy": pytest.approx(3 / 5),
        "balanced_accuracy": balanced_accuracy(counts),
        "chance": pytest.approx(3 / 5),
        "confusion": counts.tolist(),
    }
