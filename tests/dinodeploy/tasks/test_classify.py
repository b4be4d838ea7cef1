"""Classes and probabilities from logits."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks.classify import predict_one
from dinodeploy.tasks.prediction import PredictOptions
from tests.support.head_facts import head_facts

STEPS = Preprocess.from_preset("official", (64, 64), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_the_most_probable_classes_come_first() -> None:
    """Softmax of (0, ln 2, ln 5): 1/8, 2/8, 5/8; a large offset changes nothing."""
    logits = (np.log([1.0, 2.0, 5.0]) + 300).astype(np.float32)
    head = head_facts("classify", classes=("cat", "cup", "sky"))
    found = predict_one({"out": logits}, head, (9, 9), STEPS, PredictOptions(top=2)).facts["classes"]
    assert [entry["class"] for entry in found] == ["sky", "cup"]
    assert [entry["probability"] for entry in found] == pytest.approx([5 / 8, 2 / 8], rel=1e-4)
