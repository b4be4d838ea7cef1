"""Accuracies against scikit-learn, and by hand (docs/spec.md 5.1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, recall_score, top_k_accuracy_score

from dinov3_ref.eval.metrics import METRICS, TITLES, accuracy, any_match, mean_per_class

CLASSES = 7


def drawn(count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores without ties, and labels of unequal frequency; the last class does not occur."""
    rng = np.random.default_rng(0)
    labels = rng.choice(CLASSES - 1, count, p=[0.4, 0.25, 0.15, 0.1, 0.05, 0.05])
    scores = rng.normal(size=(count, CLASSES))
    scores[np.arange(count), labels] += rng.uniform(0, 2, count)
    return torch.tensor(scores), torch.tensor(labels)


def test_accuracy_is_that_of_scikit_learn() -> None:
    scores, labels = drawn()
    found = accuracy(scores, labels)
    for k in (1, 5):
        expected = top_k_accuracy_score(labels, scores.numpy(), k=k, labels=np.arange(CLASSES))
        assert found[f"top{k}"] == pytest.approx(100 * expected)


def test_mean_per_class_is_balanced_accuracy() -> None:
    scores, labels = drawn()
    found = mean_per_class(scores, labels)
    chosen = scores.argmax(1)
    present = labels.unique().tolist()
    expected = recall_score(labels, chosen, labels=present, average="macro", zero_division=0)
    assert found["mean_top1"] == pytest.approx(100 * expected)
    assert found["mean_top1"] != pytest.approx(accuracy(scores, labels)["top1"])
    assert balanced_accuracy_score([0, 0, 1], [0, 1, 1]) == 0.75  # the same rule, by hand
    assert mean_per_class(torch.eye(2)[[0, 1, 1]], torch.tensor([0, 0, 1]))["mean_top1"] == 75.0


def test_any_match_by_hand() -> None:
    """Best classes 0, 1, 2, 0; the third image has no label, the fourth has another one: 2 of 3."""
    scores = torch.eye(3)[[0, 1, 2, 0]]
    truth = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]], dtype=torch.bool)
    assert any_match(scores, truth)["any_match"] == pytest.approx(200 / 3)


def test_every_metric_has_titles() -> None:
    scores, labels = drawn(20)
    several = torch.nn.functional.one_hot(labels, CLASSES).bool()
    for measure, wants_all in METRICS.values():
        assert set(measure(scores, several if wants_all else labels)) <= set(TITLES)
