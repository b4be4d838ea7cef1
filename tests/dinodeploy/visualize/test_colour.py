"""The colour scale runs from dark to bright."""

from __future__ import annotations

import numpy as np

from dinodeploy.visualize.colour import SCALE, enlarge, heat


def test_colours_run_from_dark_to_bright() -> None:
    colours = heat(np.linspace(0, 1, 64)[None], 0, 1)[0].astype(int)
    assert (colours[0] == SCALE[0]).all()
    assert (colours[-1] == SCALE[-1]).all()
    brightness = colours @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) > 0).all()
    assert (heat(np.array([[5.0]]), 5.0, 5.0) == SCALE[0]).all(), "a map without a range"
    assert enlarge(heat(np.zeros((3, 5)), 0, 1), (50, 31)).size == (50, 31)
