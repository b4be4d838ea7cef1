"""Whole images on an engine of square windows: outputs are grouped by image, in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dinodeploy.images.preprocess import Preprocess
from dinodeploy.images.windows import Windows
from dinodeploy.tasks.window_runner import WindowRunner
from tests.support.fake_engine import embedder

SIDE = 32
WINDOWS = Windows.of(Preprocess.from_preset("official", (SIDE, SIDE), (0.5,) * 3, (0.5,) * 3))


@pytest.mark.parametrize("shape", [(SIDE, 80), (80, SIDE), (SIDE, SIDE)])
def test_outputs_are_grouped_by_image(shape: tuple[int, int]) -> None:
    runs: list[int] = []

    def engine(pixels: Any, outputs: Any = None) -> dict[str, Any]:
        assert pixels.shape[1:] == (3, SIDE, SIDE)
        runs.append(len(pixels))
        return {"first": pixels[:, :, 0, 0]}

    pixels = np.random.default_rng(0).random((2, 3, *shape), np.float32)
    found = WindowRunner(embedder(engine), WINDOWS, batch=4).run(pixels)["first"]
    starts = WINDOWS.starts(shape[1], shape[0])
    wanted = [[image[:, s, 0] if shape[0] > shape[1] else image[:, 0, s] for s in starts] for image in pixels]
    assert np.array_equal(found, np.array(wanted))
    assert runs == ([4, 2] if len(starts) == 3 else [2])
