"""The palette: text is legible on its paper, and plots find every dark colour."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dinodeploy.pages.palette import PALETTE, dark_plots, variables

NOT_TEXT = {"page", "card", "line", "grid", "limit", "pass-tint", "fail-tint", "accent-tint"}


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("paper", ["page", "card"])
def test_text_is_legible(side: int, paper: str) -> None:
    """WCAG 2.2, success criterion 1.4.3: a contrast of 4.5 for text."""
    for name in PALETTE.keys() - NOT_TEXT:
        pair = (luminance(PALETTE[paper][side]), luminance(PALETTE[name][side]))
        assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 4.5, name


def test_light_and_dark_define_the_same_colours() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", variables())
    assert set(re.findall(r"--[\w-]+(?=:)", light)) == set(re.findall(r"--[\w-]+(?=:)", dark))


def test_every_light_colour_has_one_dark_colour() -> None:
    lights = [light for light, _ in PALETTE.values()]
    assert len(set(lights)) == len(lights)
    for light, dark in PALETTE.values():
        assert f'[style*="fill: {light}"] {{ fill: {dark} !important; }}' in dark_plots()
