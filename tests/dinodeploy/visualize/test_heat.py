"""The colour scale of maps: order, ends, and what their values are called."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.visualize.heat import SCALE, Range, heat


def test_colours_run_from_dark_to_bright() -> None:
    colours = heat(np.linspace(0, 1, 64)[None], 0, 1)[0].astype(int)
    assert (colours[0] == SCALE[0]).all()
    assert (colours[-1] == SCALE[-1]).all()
    brightness = colours @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) > 0).all()
    assert (heat(np.array([[5.0]]), 5.0, 5.0) == SCALE[0]).all(), "a map without a range"


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.000123, "0.012 %"), (0.0216, "2.2 %"), (0.0999, "10 %"), (1, "100 %")]
)
def test_shares_are_percents(share: float, text: str) -> None:
    assert Range("attention share", 0, share).ends == ("0 %", text)


def test_cosines_have_two_digits() -> None:
    assert Range("cosine", -0.694, 1).ends == ("-0.69", "1.00")
