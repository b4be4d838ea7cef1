"""Numbers of a regressor, and classes of an image that may have several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks import classify, regress
from dinodeploy.tasks.predict import predictor_of
from dinodeploy.tasks.prediction import PredictOptions

STEPS = Preprocess.from_preset("official", (32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
HEAD = HeadFacts(
    "regress", "linear_regressor", ("cls",), ("values",), ("age", "weight"), "f", "0" * 64, "ours"
)
SEVERAL = replace(
    HEAD, task="classify", outputs=("logits",), settings={"multi_label": True, "thresholds": [0.5, 0.9]}
)


def test_values_have_their_names() -> None:
    found = regress.predict_one({"values": np.float32([1.5, -2])}, HEAD, (9, 9), STEPS, PredictOptions())
    assert found.facts == {"values": {"age": 1.5, "weight": -2.0}}
    with pytest.raises(MisuseError, match="finds no objects"):
        predictor_of(HEAD, STEPS, PredictOptions(threshold=0.5))


@pytest.mark.parametrize(
    ("logits", "threshold", "names"),
    [
        ([1.0, 2.0], None, ["age"]),
        ([1.0, 3.0], None, ["weight", "age"]),
        ([-1.0, 0.0], None, []),
        ([-1, 2], 0.2, ["weight", "age"]),
    ],
)
def test_each_class_has_its_threshold(logits: list[float], threshold: float | None, names: list[str]) -> None:
    options = PredictOptions(threshold=threshold)
    made = predictor_of(SEVERAL, STEPS, options)
    assert made.task == "classify"
    found = classify.predict_one({"logits": np.float32(logits)}, SEVERAL, (9, 9), STEPS, options)
    assert [entry["class"] for entry in found.facts["classes"]] == names
    for entry in found.facts["classes"]:
        logit = logits[["age", "weight"].index(entry["class"])]
        assert entry["probability"] == pytest.approx(1 / (1 + np.exp(-logit)))
