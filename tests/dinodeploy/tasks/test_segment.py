"""Class maps in the pixels of the original image."""

from __future__ import annotations

import numpy as np

from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks.dense import IGNORE
from dinodeploy.tasks.prediction import PredictOptions
from dinodeploy.tasks.segment import class_shares, predict_one
from tests.support.head_facts import head_facts

HEAD = head_facts("segment", classes=("sky", "sea"))


def test_pixels_outside_the_crop_have_no_class() -> None:
    """timm's preset crops the centre square of 300x200: columns 50 to 250."""
    steps = Preprocess.from_preset("timm", (64, 64), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    logits = np.zeros((2, 64, 64), np.float32)
    logits[1, :, 16:] = 1  # three quarters of the columns
    found = predict_one({"out": logits}, HEAD, (300, 200), steps, PredictOptions())
    assert found.map is not None
    assert found.map.shape == (200, 300)
    assert (found.map[:, :49] == IGNORE).all()
    assert (found.map[:, 251:] == IGNORE).all()
    assert (found.map[:, 102:250] == 1).all()
    assert list(found.facts["shares"]) == ["sea", "sky"]
    assert abs(found.facts["shares"]["sea"] - 0.75) < 0.02


def test_shares_leave_out_pixels_without_a_class() -> None:
    assert class_shares(np.array([[0, 1, 1], [1, IGNORE, IGNORE]]), HEAD) == {"sea": 0.75, "sky": 0.25}
    assert class_shares(np.array([[IGNORE]]), HEAD) == {}
