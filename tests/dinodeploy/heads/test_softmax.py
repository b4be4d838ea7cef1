"""Softmax regression against scikit-learn's, and the parts it is made of."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from dinodeploy.errors import UnavailableError
from dinodeploy.heads.fit import Rows, fit_head, one_hot
from dinodeploy.heads.scores import (
    accuracy,
    balanced_accuracy,
    chance,
    confusion,
    intersection_over_union,
)
from dinodeploy.heads.softmax import fit_softmax, standardise
from dinodeploy.heads.split import split_at_random, split_by_class


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return data.data[:600].astype(np.float32) / 16, data.target[:600]


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_it_is_scikit_learn_s(digits: tuple[np.ndarray, np.ndarray], l2: float) -> None:
    x, y = digits
    ours = fit_softmax(x, one_hot(y, 10), np.ones(len(x), np.float32), l2)
    theirs = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=5000).fit(x, y)
    shares = np.exp(ours.logits(x))
    shares /= shares.sum(axis=1, keepdims=True)
    assert np.abs(shares - theirs.predict_proba(x)).max() < 5e-3
    assert np.abs(ours.weight - theirs.coef_.T).max() < 2e-2 * np.abs(theirs.coef_).max()


def test_where_it_starts_decides_nothing(digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits
    ones = np.ones(len(x), np.float32)
    near = fit_softmax(x, one_hot(y, 10), ones, 1.0)
    a = fit_softmax(x, one_hot(y, 10), ones, 0.01)
    b = fit_softmax(x, one_hot(y, 10), ones, 0.01, start=near)
    assert np.abs(a.logits(x) - b.logits(x)).max() < 0.02 * np.abs(a.logits(x)).max()


def test_weights_and_soft_targets_are_repetitions() -> None:
    """A row of weight two is that row twice; a target of two halves is both, at half weight."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)).astype(np.float32), rng.integers(0, 3, 30)
    hard = one_hot(y, 3)
    weights = np.ones(30, np.float32)
    weights[0] = 2
    once = fit_softmax(x, hard, weights, 0.1)
    twice = fit_softmax(np.concatenate([x, x[:1]]), np.concatenate([hard, hard[:1]]), np.ones(31), 0.1)
    assert np.allclose(once.weight, twice.weight, atol=1e-3)
    soft = hard.copy()
    soft[0] = (0.5, 0.5, 0)
    mixed = fit_softmax(x, soft, np.ones(30), 0.1)
    halves = np.concatenate([[0.5, 0.5], np.ones(29)])
    rows = np.concatenate([x[:1], x])
    split = fit_softmax(rows, np.concatenate([one_hot(np.array([0, 1]), 3), hard[1:]]), halves, 0.1)
    assert np.allclose(mixed.weight, split.weight, atol=1e-3)


def test_a_missing_scipy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UnavailableError, match=r"needs scipy.*pip install 'dinodeploy\[heads\]'"):
        fit_softmax(np.ones((2, 1), np.float32), np.eye(2, dtype=np.float32), np.ones(2), 1.0)


def test_scales_are_taken_back() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(20, 3)) * (1e-3, 1, 100) + (5, 0, -300)).astype(np.float32)
    x = np.concatenate([x, np.full((20, 1), 7, np.float32)], axis=1)  # one that never changes
    scale = standardise(x)
    fitted = fit_softmax(scale(x), one_hot(rng.integers(0, 2, 20), 2), np.ones(20), 0.1)
    assert np.allclose(scale.undo(fitted).logits(x.astype(np.float64)), fitted.logits(scale(x)), atol=1e-3)


def test_penalty_is_chosen_on_other_rows_and_balance_lifts_the_rare_class() -> None:
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
    assert accuracy(counts) == pytest.approx(3 / 5)
    assert balanced_accuracy(counts) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert chance(counts) == pytest.approx(3 / 5)
    each, mean = intersection_over_union(counts)
    assert each == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0, None]
    assert mean == pytest.approx(1 / 3)


def test_splits_are_seeded_and_share_nothing() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] * 10)
    split = split_by_class(labels, ("a", "b", "c"), 0)
    parts = (split.train, split.validation, split.test)
    assert sorted(np.concatenate(parts)) == list(range(63))
    assert all(set(labels[part]) == {0, 1, 2} for part in parts)
    assert (len(split.test), len(split.validation)) == (10 + 1 + 2, 8 + 1 + 2)
    again, other = split_by_class(labels, ("a", "b", "c"), 0), split_by_class(labels, ("a", "b", "c"), 1)
    assert (again.test == split.test).all()
    assert (other.test != split.test).any()
    pictures = split_at_random(3, 0)
    assert sorted([*pictures.train, *pictures.validation, *pictures.test]) == [0, 1, 2]
