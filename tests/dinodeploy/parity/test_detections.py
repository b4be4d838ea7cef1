"""Detections are compared query by query, whatever order they come in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.facts import HeadFacts
from dinodeploy.parity.detections import box_iou, match, measure_detections
from dinodeploy.parity.tasks import TASKS

B, Q, C = 2, 6, 3
HEAD = HeadFacts("detect", "deimv2", (), ("logits", "boxes", "positions"), (), "f", "0" * 64, "none")


def outputs(seed: int = 0) -> dict[str, FloatArray]:
    rng = np.random.default_rng(seed)
    return {
        "logits": rng.standard_normal((B, Q, C)).astype(np.float32),
        "boxes": rng.uniform(0.2, 0.4, (B, Q, 4)).astype(np.float32),
        "positions": np.stack([rng.permutation(50)[:Q] for _ in range(B)]).astype(np.float32),
    }


def test_the_order_of_queries_does_not_count() -> None:
    wanted = outputs()
    order = np.random.default_rng(1).permutation(Q)
    got = {name: array[:, order] for name, array in wanted.items()}
    values = measure_detections(got, wanted, HEAD)
    assert values["positions"] == {"queries_changed": 0.0}
    assert values["logits"] == {"score_error": 0.0}
    assert values["boxes"] == {"box_error": 0.0, "box_iou": pytest.approx(1.0)}


def test_a_changed_query_is_counted_and_not_compared() -> None:
    wanted, got = outputs(), outputs()
    got["positions"][1, 2] = 99
    got["boxes"][1, 2] = 5.0
    values = measure_detections(got, wanted, HEAD)
    assert values["positions"]["queries_changed"] == pytest.approx(1 / (B * Q))
    assert values["boxes"]["box_error"] == 0.0


def test_errors_of_matched_queries() -> None:
    wanted, got = outputs(), outputs()
    wanted["logits"][0, 0, 0], got["logits"][0, 0, 0] = 0.0, np.log(3.0)
    got["boxes"][0, 1, 0] += 0.05
    values = measure_detections(got, wanted, HEAD)
    assert values["logits"]["score_error"] == pytest.approx(0.25)
    assert values["boxes"]["box_error"] == pytest.approx(0.05, rel=1e-5)
    assert 0.9 < values["boxes"]["box_iou"] < 1.0


def test_nothing_in_common() -> None:
    wanted, got = outputs(), outputs()
    got["positions"] += 100
    assert measure_detections(got, wanted, HEAD) == {"positions": {"queries_changed": 1.0}}


def test_equal_positions_pair_up_once() -> None:
    mine, theirs = match(np.array([-1.0, 3, -1, -1]), np.array([3.0, -1, 7, -1]))
    assert sorted(zip(mine.tolist(), theirs.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 3)]


def test_overlap() -> None:
    a = np.array([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1], [0.5, 0.5, -1.0, 0.2]])
    b = np.array([[0.5, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1], [0.5, 0.5, -2.0, 0.2]])
    np.testing.assert_allclose(box_iou(a, b), [1.0, 1 / 3, 0.0, 1.0], atol=1e-12)


def shift(array: FloatArray) -> FloatArray:
    return array + np.float32(0.1)


# fault -> output, what a faulty engine makes of it
FAULTS: dict[str, tuple[str, Callable[[FloatArray], FloatArray]]] = {
    "corners for centres": ("boxes", lambda boxes: boxes[..., [0, 1, 0, 1]] + boxes[..., [2, 3, 2, 3]] / 2),
    "height for width": ("boxes", lambda boxes: boxes[..., [0, 1, 3, 2]]),
    "x for y": ("boxes", lambda boxes: boxes[..., [1, 0, 2, 3]]),
    "moved": ("boxes", shift),
    "probabilities for logits": ("logits", lambda logits: 1 / (1 + np.exp(-logits))),
    "other classes": ("logits", lambda logits: np.roll(logits, 1, axis=-1)),
    "other queries": ("positions", lambda positions: positions + 50),
}


@pytest.mark.parametrize("recipe", ["fp32", "fp16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_rejected(fault: str, recipe: str) -> None:
    wanted = outputs()
    name, spoil = FAULTS[fault]
    found = measure_detections({**wanted, name: spoil(wanted[name])}, wanted, HEAD)
    values = {metric: value for metrics in found.values() for metric, value in metrics.items()}
    limits = TASKS["detect"].limits(recipe, HEAD)
    assert not all(limit.holds(values[limit.metric]) for limit in limits if limit.metric in values)
