"""Softmax regression against scikit-learn's, and the parts it is made of."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from dinodeploy.errors import UnavailableError
from dinodeploy.heads.fit import one_hot
from dinodeploy.heads.softmax import fit_softmax, standardise


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return data.data[:600].astype(np.float32) / 16, data.target[:600]


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_agrees_with_scikit_learn(digits: tuple[np.ndarray, np.ndarray], l2: float) -> None:
    x, y = digits
    ours = fit_softmax(x, one_hot(y, 10), np.ones(len(x), np.float32), l2)
    theirs = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=5000).fit(x, y)
    shares = np.exp(ours.logits(x))
    shares /= shares.sum(axis=1, keepdims=True)
    assert np.abs(shares - theirs.predict_proba(x)).max() < 5e-3
    assert np.abs(ours.weight - theirs.coef_.T).max() < 2e-2 * np.abs(theirs.coef_).max()


def test_the_start_does_not_change_the_result(digits: tuple[np.ndarray, np.ndarray]) -> None:
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


def test_undoing_the_scale_gives_the_same_logits() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(20, 3)) * (1e-3, 1, 100) + (5, 0, -300)).astype(np.float32)
    x = np.concatenate([x, np.full((20, 1), 7, np.float32)], axis=1)  # a constant feature
    scale = standardise(x)
    fitted = fit_softmax(scale(x), one_hot(rng.integers(0, 2, 20), 2), np.ones(20), 0.1)
    assert np.allclose(scale.undo(fitted).logits(x.astype(np.float64)), fitted.logits(scale(x)), atol=1e-3)
