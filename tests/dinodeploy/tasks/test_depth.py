"""Metres in the pixels of the original image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks.depth import predict_one
from dinodeploy.tasks.prediction import PredictOptions
from dinodeploy.tasks.resize import resize_aligned
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


@pytest.mark.parametrize("size", [(96, 128), (33, 50), (64, 64), (1, 7), (200, 1)])
def test_aligned_corners_are_those_of_torch(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    plane = np.random.default_rng(0).uniform(1, 90, (64, 96)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(plane)[None, None], size=size, mode="bilinear", align_corners=True
    )
    assert np.abs(resize_aligned(plane, size) - wanted[0, 0].numpy()).max() < 1e-4  # measured 3e-5


def test_a_head_with_aligned_corners() -> None:
    steps = Preprocess.from_preset("official", (64, 64), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    metres = np.arange(64 * 96, dtype=np.float32).reshape(1, 64, 96)
    head = replace(head_facts("depth"), settings={"align_corners": True})
    found = predict_one({"out": metres}, head, (300, 200), steps, PredictOptions())
    assert found.map is not None
    assert found.map.shape == (200, 300)
    assert (found.map[0, 0], found.map[-1, -1]) == (0, 64 * 96 - 1), "corners stand on corners"
