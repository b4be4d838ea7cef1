"""Quality of a head: accuracy, confusion matrix, intersection over union.

Shapes: N images or pixels, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray, IndexArray


def confusion(labels: AnyArray, chosen: AnyArray, classes: int) -> IndexArray:
    """[K,K] counts: rows are true classes, columns predicted ones."""
    return np.bincount(labels.ravel() * classes + chosen.ravel(), minlength=classes**2).reshape(
        classes, classes
    )


def accuracy(counts: IndexArray) -> float:
    """Share of correct predictions."""
    return float(np.trace(counts) / max(int(counts.sum()), 1))


def balanced_accuracy(counts: IndexArray) -> float:
    """Mean recall over the classes that occur."""
    total = counts.sum(axis=1)
    return float((np.diag(counts)[total > 0] / total[total > 0]).mean()) if total.any() else 0.0


def chance(counts: IndexArray) -> float:
    """Accuracy of always predicting the most frequent class."""
    return float(counts.sum(axis=1).max() / max(int(counts.sum()), 1))


def intersection_over_union(counts: IndexArray) -> tuple[list[float | None], float]:
    """IoU per class, None where it neither occurs nor is predicted; and their mean (docs/spec.md 5.4)."""
    union = counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    each = [float(np.diag(counts)[k] / union[k]) if union[k] else None for k in range(len(counts))]
    there = [value for value in each if value is not None]
    return each, float(np.mean(there)) if there else 0.0


def summary(counts: IndexArray) -> dict[str, Any]:
    """All scores of a report but IoU, as JSON holds them."""
    return {
        "accuracy": accuracy(counts),
        "balanced_accuracy": balanced_accuracy(counts),
        "chance": chance(counts),
        "confusion": counts.tolist(),
    }
