"""Metres in the pixels of the original image."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks.depth import predict_one
from dinodeploy.tasks.prediction import PredictOptions
from tests.support.head_facts import head_facts


def test_metres_cover_the_visible_part() -> None:
    steps = Preprocess.from_preset("timm", (64, 64), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    metres = np.tile(np.linspace(1, 9, 64, dtype=np.float32), (1, 64, 1))
    found = predict_one({"out": metres}, head_facts("depth"), (300, 200), steps, PredictOptions())
    assert found.map is not None
    assert (found.map.dtype, found.map.shape) == (np.float32, (200, 300))
    assert np.isnan(found.map[:, :49]).all()
    assert found.map[100, 150] == pytest.approx(5, abs=0.1)
    assert found.facts["metres"] == pytest.approx({"nearest": 1, "median": 5, "farthest": 9}, abs=0.05)
