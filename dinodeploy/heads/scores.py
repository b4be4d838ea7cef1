"""How good a head is: accuracy, confusion, intersection over union. numpy only.

Shapes: N pictures or places, K classes.
"""

from __future__ import annotations

import numpy as np

from dinodeploy.arrays import AnyArray, IndexArray


def confusion(labels: AnyArray, chosen: AnyArray, classes: int) -> IndexArray:
    """[K,K] counts: row the true class, column the chosen one."""
    return np.bincount(labels.ravel() * classes + chosen.ravel(), minlength=classes**2).reshape(
        classes, classes
    )


def accuracy(counts: IndexArray) -> float:
    """Share that is right."""
    return float(np.trace(counts) / max(int(counts.sum()), 1))


def balanced_accuracy(counts: IndexArray) -> float:
    """Mean over the classes that appear of the share that is right."""
    total = counts.sum(axis=1)
    return float((np.diag(counts)[total > 0] / total[total > 0]).mean()) if total.any() else 0.0


def chance(counts: IndexArray) -> float:
    """Accuracy of always naming the most frequent class."""
    return float(counts.sum(axis=1).max() / max(int(counts.sum()), 1))


def intersection_over_union(counts: IndexArray) -> tuple[list[float | None], float]:
    """Of each class, None where it neither appears nor is chosen; and the mean over the others.

    Source: docs/spec.md 5.4.
    """
    union = counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    each = [float(np.diag(counts)[k] / union[k]) if union[k] else None for k in range(len(counts))]
    there = [value for value in each if value is not None]
    return each, float(np.mean(there)) if there else 0.0
