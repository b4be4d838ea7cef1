"""The palette: text is legible on its paper, and plots find every dark colour."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dinodeploy.pages.palette import PALETTE, dark_plots, variables

PAPERS = {"page", "card", "grid", "pass-tint", "fail-tint", "accent-tint"}
NOT_TEXT = PAPERS | {"line", "limit", "control", "on-accent"}


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str, side: int) -> float:
    low, high = sorted(luminance(PALETTE[name][side]) for name in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("side", [0, 1])
def test_text_is_legible(side: int) -> None:
    """WCAG 2.2, success criterion 1.4.3: a contrast of 4.5 for text; ink on every paper, the rest on two."""
    pairs = [(name, paper) for name in PALETTE.keys() - NOT_TEXT for paper in ("page", "card")]
    pairs += [(name, paper) for name in ("ink", "soft") for paper in PAPERS]
    pairs += [(name, f"{name}-tint") for name in ("pass", "fail", "accent")]
    pairs += [("on-accent", name) for name in ("accent", "pass", "fail")]
    for name, paper in pairs:
        assert contrast(name, paper, side) >= 4.5, (name, paper)


@pytest.mark.parametrize("side", [0, 1])
def test_controls_stand_out(side: int) -> None:
    """WCAG 2.2, success criterion 1.4.11: a contrast of 3 for the borders of controls and for focus rings."""
    for name in ("control", "accent"):
        for paper in PAPERS:
            assert contrast(name, paper, side) >= 3, (name, paper)


def test_light_and_dark_define_the_same_colours() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", variables())
    assert set(re.findall(r"--[\w-]+(?=:)", light)) == set(re.findall(r"--[\w-]+(?=:)", dark))


def test_every_light_colour_has_one_dark_colour() -> None:
    lights = [light for light, _ in PALETTE.values()]
    assert len(set(lights)) == len(lights)
    for light, dark in PALETTE.values():
        assert f'[style*="fill: {light}"] {{ fill: {dark} !important; }}' in dark_plots()
