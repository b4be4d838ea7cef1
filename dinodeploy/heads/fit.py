"""Fit a linear head: find the penalty that does best on validation rows, then fit on these too.

Shapes: N rows, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dinodeploy.arrays import AnyArray
from dinodeploy.heads.scores import balanced_accuracy, confusion
from dinodeploy.heads.softmax import Linear, fit_softmax, standardise

Balance = Literal["balanced", "none"]
BALANCES = ("balanced", "none")
PENALTIES = tuple(
    10.0**exponent for exponent in range(1, -7, -1)
)  # strong to weak: each starts from the last


@dataclass(frozen=True)
class Rows:
    """Features with soft targets and weights; a row of weight zero counts for nothing."""

    x: AnyArray  # [N,F] float32
    y: AnyArray  # [N,K] float32, sums to one
    weights: AnyArray  # [N]

    def __add__(self, other: Rows) -> Rows:
        pairs = ((self.x, other.x), (self.y, other.y), (self.weights, other.weights))
        return Rows(*(np.concatenate(pair) for pair in pairs))

    def balanced(self) -> Rows:
        """Weights by which every class counts alike, however many rows it has."""
        mass = (self.weights[:, None] * self.y).sum(axis=0)
        there = mass > 0
        factor = np.zeros_like(mass)
        factor[there] = mass.sum() / (there.sum() * mass[there])
        return Rows(self.x, self.y, self.weights * (self.y @ factor))


@dataclass(frozen=True)
class Fitted:
    """A head for features as an engine gives them, and how its penalty was chosen."""

    linear: Linear
    l2: float
    tried: tuple[tuple[float, float], ...]  # (l2, balanced accuracy on the validation rows)


def fit_head(
    train: Rows, validation: Rows, balance: Balance, say: Callable[[str], None] = lambda _: None
) -> Fitted:
    """Try every penalty, take the best by balanced accuracy on `validation` (of equals the strongest)."""

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
        say(f"penalty {l2:g}: validation {score:.3f}")
        tried.append((l2, score))
    best = max(tried, key=lambda pair: pair[1])[0]
    everything = train + validation
    scale, weighed = standardise(everything.x), prepared(everything)
    linear = fit_softmax(scale(everything.x), weighed.y, weighed.weights, best)
    return Fitted(scale.undo(linear), best, tuple(tried))


def one_hot(labels: AnyArray, classes: int) -> AnyArray:
    return np.eye(classes, dtype=np.float32)[labels]
