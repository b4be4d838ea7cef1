"""Fit a linear head: choose the penalty with the best validation score, then fit on all rows; its scores.

Shapes: N rows (images, patches or pixels), F features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dinodeploy.arrays import AnyArray, IndexArray
from dinodeploy.heads.softmax import Linear, fit_softmax, standardise

Balance = Literal["balanced", "none"]
BALANCES = ("balanced", "none")
# Strong to weak: each fit starts from the one before.
PENALTIES = tuple(10.0**exponent for exponent in range(1, -7, -1))


def confusion(labels: AnyArray, chosen: AnyArray, classes: int) -> IndexArray:
    """[K,K] counts: rows are true classes, columns predicted ones."""
    cells = labels.ravel() * classes + chosen.ravel()
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def balanced_accuracy(counts: IndexArray) -> float:
    """Mean recall over the classes that occur."""
    total = counts.sum(axis=1)
    return float((np.diag(counts)[total > 0] / total[total > 0]).mean()) if total.any() else 0.0


def intersection_over_union(counts: IndexArray) -> tuple[list[float | None], float]:
    """IoU per class, None where it neither occurs nor is predicted; and their mean (docs/spec.md 5.4)."""
    union = counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    each = [float(np.diag(counts)[k] / union[k]) if union[k] else None for k in range(len(counts))]
    there = [value for value in each if value is not None]
    return each, float(np.mean(there)) if there else 0.0


def summary(counts: IndexArray) -> dict[str, Any]:
    """All scores of a report but IoU, as JSON holds them. chance: of the most frequent class alone."""
    total = max(int(counts.sum()), 1)
    return {
        "accuracy": float(np.trace(counts) / total),
        "balanced_accuracy": balanced_accuracy(counts),
        "chance": float(counts.sum(axis=1).max() / total),
        "confusion": counts.tolist(),
    }


@dataclass(frozen=True)
class Rows:
    """Features with soft targets and row weights."""

    x: AnyArray  # [N,F] float32
    y: AnyArray  # [N,K] float32, sums to one
    weights: AnyArray  # [N]

    def __add__(self, other: Rows) -> Rows:
        pairs = ((self.x, other.x), (self.y, other.y), (self.weights, other.weights))
        return Rows(*(np.concatenate(pair) for pair in pairs))

    def balanced(self) -> Rows:
        """The same rows with weights that give every class the same total."""
        mass = (self.weights[:, None] * self.y).sum(axis=0)
        there = mass > 0
        factor = np.zeros_like(mass)
        factor[there] = mass.sum() / (there.sum() * mass[there])
        return Rows(self.x, self.y, self.weights * (self.y @ factor))


@dataclass(frozen=True)
class Fitted:
    """A head for unscaled engine features, and how its penalty was chosen."""

    linear: Linear
    l2: float
    tried: tuple[tuple[float, float], ...]  # (l2, balanced accuracy on the validation rows)


def fit_head(
    train: Rows, validation: Rows, balance: Balance, log: Callable[[str], None] = lambda _: None
) -> Fitted:
    """Try every penalty and keep the best balanced accuracy on `validation`; ties go to the stronger one."""

    def prepared(rows: Rows) -> Rows:
        return rows.balanced() if balance == "balanced" else rows

    scale, weighed = standardise(train.x), prepared(train)
    scaled, held = scale(train.x), scale(validation.x)
    truth, classes = validation.y.argmax(axis=1), train.y.shape[1]
    counted = validation.weights > 0
    tried: list[tuple[float, float]] = []
    start: Linear | None = None
    for l2 in PENALTIES:
        start = fit_softmax(scaled, weighed.y, weighed.weights, l2, start)
        chosen = start.logits(held).argmax(axis=1)
        score = balanced_accuracy(confusion(truth[counted], chosen[counted], classes))
        log(f"penalty {l2:g}: validation {score:.3f}")
        tried.append((l2, score))
    best = max(tried, key=lambda pair: pair[1])[0]
    everything = train + validation
    scale, weighed = standardise(everything.x), prepared(everything)
    linear = fit_softmax(scale(everything.x), weighed.y, weighed.weights, best)
    return Fitted(scale.undo(linear), best, tuple(tried))


def one_hot(labels: AnyArray, classes: int) -> AnyArray:
    """[N] -> [N,K] float32."""
    return np.eye(classes, dtype=np.float32)[labels]
