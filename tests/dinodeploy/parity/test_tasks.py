"""A task's own measure is judged beside the errors, or in place of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from dinodeploy.bundle.facts import HeadFacts
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import GoldenCase
from dinodeploy.parity.judge import judge
from dinodeploy.parity.measurement import Verdict
from dinodeploy.parity.tasks import TASKS, Outputs, TaskMeasure
from dinodeploy.parity.thresholds import Threshold

HEAD = HeadFacts("detect", "boxes", (), ("boxes", "scores"), (), "boxes", "", "MIT")
PREPROCESS = Preprocess("hf", 32, 32, (0.5,) * 3, (0.5,) * 3)
LIMITS = {"fp32": (Threshold("best", 0.1, 0.0),), "fp16": (Threshold("best", 0.5, 0.0),)}


def best_score(got: Outputs, wanted: Outputs, head: HeadFacts) -> Mapping[str, Mapping[str, float]]:
    return {"scores": {"best": float(abs(got["scores"].max() - wanted["scores"].max()))}}


def verdict(got: Mapping[str, np.ndarray], precision: str = "fp32") -> Verdict:
    wanted = {"boxes": np.ones((1, 2, 4), np.float32), "scores": np.ones((1, 2), np.float32)}
    case = GoldenCase("own_size", (), np.zeros((0, 3, 32, 32), np.float32), wanted)
    return judge(
        [case], lambda image, size: image, lambda x: {**wanted, **got}, PREPROCESS, "fp32", HEAD, precision
    )


@pytest.mark.parametrize(("precision", "passes"), [("fp32", False), ("fp16", True)])
def test_its_limit_is_of_the_heads_precision(
    monkeypatch: pytest.MonkeyPatch, precision: str, passes: bool
) -> None:
    monkeypatch.setitem(TASKS, "detect", TaskMeasure(best_score, LIMITS, frozenset({"scores"})))
    found = verdict({"scores": np.full((1, 2), 1.3, np.float32)}, precision)
    assert found.passed is passes
    assert [m.metric for m in found.measurements if m.output == "scores"] == ["best"]


def test_what_is_not_replaced_is_compared_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "detect", TaskMeasure(best_score, LIMITS, frozenset({"scores"})))
    assert verdict({}).passed
    assert not verdict({"boxes": np.full((1, 2, 4), 1.01, np.float32)}).passed


def test_a_missing_output_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "detect", TaskMeasure(best_score, LIMITS))
    found = verdict({"boxes": np.ones((1, 3, 4), np.float32)})
    assert [m.metric for m in found.failures] == ["shape"]
