"""Scores equal scikit-learn's; losses ignore what is not labelled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinov3_ref.adapt.objectives import (
    IGNORE,
    MOST,
    Classify,
    MultiLabel,
    Regress,
    Segment,
    average_precision,
    best_thresholds,
    class_weights,
    positive_weights,
)

metrics = pytest.importorskip("sklearn.metrics")


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_that_of_scikit_learn(ties: bool) -> None:
    scores = drawn(0, 60, 4).round() if ties else drawn(0, 60, 4)
    truth = (drawn(1, 60, 4) > 0.5).float()
    found = average_precision(scores.double(), truth.double())
    wanted = [metrics.average_precision_score(truth[:, k], scores[:, k]) for k in range(4)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)


def test_thresholds_maximise_f1() -> None:
    logits, truth = drawn(2, 80, 3), (drawn(3, 80, 3) > 0.3).float()
    truth[:, 2] = 0
    found = best_thresholds(logits, truth)
    chances = torch.sigmoid(logits)
    for k in range(2):
        grid = np.unique(chances[:, k].numpy())
        best = max(metrics.f1_score(truth[:, k], chances[:, k].numpy() >= cut) for cut in grid)
        chosen = metrics.f1_score(truth[:, k], chances[:, k].double().numpy() >= found[k])
        assert chosen == pytest.approx(best)
    assert found[2] == 0.5  # the class does not occur


def test_class_scores_are_those_of_scikit_learn() -> None:
    tally = Segment().tally()
    truth = torch.randint(0, 3, (4, 6, 6), generator=torch.Generator().manual_seed(0))
    truth[0, :2] = IGNORE
    logits = drawn(1, 4, 3, 6, 6)
    for row in range(4):
        tally.update(logits[row : row + 1], truth[row : row + 1])
    there = (truth != IGNORE).numpy()
    y, chosen = truth.numpy()[there], logits.argmax(1).numpy()[there]
    scores = tally.scores()
    assert scores["mean_iou"] == pytest.approx(metrics.jaccard_score(y, chosen, average="macro"))
    assert scores["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, chosen))


def test_regression_scores_are_those_of_scikit_learn() -> None:
    objective = Regress(torch.ones(2))
    values, truth = drawn(0, 30, 2), drawn(1, 30, 2)
    tally = objective.tally()
    tally.update(values, truth)
    scores = tally.scores()
    assert scores["r2"] == pytest.approx(metrics.r2_score(truth, values))
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(truth, values))


def test_ignored_pixels_have_no_gradient() -> None:
    logits = drawn(0, 2, 3, 4, 4).requires_grad_()
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    target[:, :2] = IGNORE
    Segment().loss(logits, target).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[:, :, :2], torch.zeros(2, 3, 2, 4))
    empty = Segment().loss(logits, torch.full_like(target, IGNORE))
    assert empty.item() == 0.0


def test_weights_count_classes_equally() -> None:
    weights = class_weights([90, 10, 0])
    assert weights[0] * 90 == pytest.approx(float(weights[1] * 10))
    assert weights[2] == 0
    assert class_weights([10_000, 1]).max() / class_weights([10_000, 1]).min() == pytest.approx(MOST)
    assert positive_weights(torch.tensor([50.0, 10.0, 0.0]), 100).tolist() == [1, 9, MOST]


def test_losses_compute_in_fp32() -> None:
    low = drawn(0, 4, 3).bfloat16()
    assert Classify().loss(low, torch.tensor([0, 1, 2, 0])).dtype == torch.float32
    assert MultiLabel().loss(low, torch.ones(4, 3)).dtype == torch.float32
    assert Regress(torch.ones(3)).loss(low, torch.ones(4, 3)).dtype == torch.float32
