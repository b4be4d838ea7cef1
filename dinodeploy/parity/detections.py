"""Compare two sets of detections, query by query.

A detector orders its queries by score, so two runs may order equal queries differently, and near the cut
choose others. Queries are compared with those of the same position (`DeimV2.forward`).

Shapes: B batch, Q queries, N matched queries, C classes. Boxes are (cx, cy, w, h) in shares of the image.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray, IndexArray
from dinodeploy.bundle.facts import HeadFacts

Outputs = Mapping[str, FloatArray]


def measure_detections(got: Outputs, wanted: Outputs, head: HeadFacts) -> dict[str, dict[str, float]]:
    """Outputs logits [B,Q,C], boxes [B,Q,4] and positions [B,Q] of both -> metrics by output.

    queries_changed: share of queries that the reference did not choose. score_error: largest difference of a
    probability. box_error: largest difference of a coordinate. box_iou: mean intersection over union.
    """
    rows = [match(*pair) for pair in zip(got["positions"], wanted["positions"], strict=True)]
    matched = sum(len(mine) for mine, _ in rows)
    values = {"positions": {"queries_changed": 1.0 - matched / wanted["positions"].size}}
    if not matched:
        return values

    def pick(name: str, side: Outputs, which: int) -> AnyArray:
        parts = [side[name][image][pair[which]] for image, pair in enumerate(rows)]
        return np.concatenate(parts).astype(np.float64)

    scores = np.abs(_sigmoid(pick("logits", got, 0)) - _sigmoid(pick("logits", wanted, 1)))
    mine, theirs = pick("boxes", got, 0), pick("boxes", wanted, 1)
    overlap = box_iou(mine, theirs)
    return values | {
        "logits": {"score_error": float(scores.max())},
        "boxes": {"box_error": float(np.abs(mine - theirs).max()), "box_iou": float(overlap.mean())},
    }


def match(got: FloatArray, wanted: FloatArray) -> tuple[IndexArray, IndexArray]:
    """Positions [Q] of both -> indices [N] of the queries with equal positions; equal ones pair up."""
    _, mine, theirs = np.intersect1d(
        _distinct(got), _distinct(wanted), assume_unique=True, return_indices=True
    )
    return mine, theirs


def box_iou(a: AnyArray, b: AnyArray) -> AnyArray:
    """Intersection over union of boxes [N,4] pair by pair [N]; 1 for two boxes without area."""
    low_a, high_a, low_b, high_b = (
        side[:, :2] + half * np.maximum(side[:, 2:], 0.0) for side in (a, b) for half in (-0.5, 0.5)
    )
    both = np.maximum(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0.0).prod(axis=1)
    union = (high_a - low_a).prod(axis=1) + (high_b - low_b).prod(axis=1) - both
    return np.divide(both, union, out=np.ones_like(both), where=union > 0)


def _distinct(positions: FloatArray) -> AnyArray:
    """Positions [Q] with the k-th of several equal ones told apart from the others [Q]."""
    order = np.argsort(positions, kind="stable")
    ranked = positions[order]
    first = np.searchsorted(ranked, ranked)
    keys = np.empty(len(positions), np.float64)
    keys[order] = ranked * len(positions) + (np.arange(len(positions)) - first)
    return keys


def _sigmoid(x: AnyArray) -> AnyArray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
