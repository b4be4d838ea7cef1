"""The plots of a parity report, drawn from values that are known."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dinodeploy.pages.palette import light
from dinodeploy.plots import inline_svg
from dinodeploy.plots.parity import Bar, PatchErrors, draw_bars, draw_meter, draw_patch_errors

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")


def lengths(svg: str, colour: str) -> list[float]:
    """Widths of the rectangles of a colour."""
    found = re.findall(rf'<path d="([^"]*)"[^>]*fill: {light(colour)}', svg)
    xs = [[float(x) for x in re.findall(r"[ML] ([\d.]+)", path)] for path in found]
    return [max(row) - min(row) for row in xs]


def test_bars_are_logarithmic() -> None:
    rows = [Bar("a", 1e-6, True, "tip of a"), Bar("b", 1e-4, False, "b"), Bar("c", None, False, "c")]
    svg = inline_svg(draw_bars(rows, 1e-5, "name"))
    (right,), (wrong, not_finite) = lengths(svg, "pass"), lengths(svg, "fail")
    assert wrong == pytest.approx(3 * right, rel=1e-3), "decades from 1e-7"
    assert not_finite == pytest.approx(wrong)
    for words in ("tip of a", "limit 1.0e-05", "1.0e-04 ✕", "not finite ✕", "1e-7"):
        assert words in svg


@pytest.mark.parametrize(("value", "passed"), [(0.999, True), (0.9, False), (None, False)])
def test_a_meter_has_the_colour_of_its_verdict(value: float | None, passed: bool) -> None:
    svg = inline_svg(draw_meter(value, 0.99))
    assert (len(lengths(svg, "pass")), len(lengths(svg, "fail"))) == (passed, not passed)


def test_the_map_is_dark_within_the_limit_and_spread_beyond_it() -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    quiet = PatchErrors("wide", image, np.full((2, 3), 1e-6))
    svg = inline_svg(draw_patch_errors(quiet, 1e-5))
    assert len(set(re.findall(r"fill: (#[0-9a-f]{6})", svg)) - {light("soft")}) == 1
    assert ">limit<" in svg
    loud = PatchErrors("wide", image, np.array([[1e-3, 1e-2, np.nan], [1e-2, 1e-2, 1e-1]]))
    svg = inline_svg(draw_patch_errors(loud, 1e-5))
    assert "row 0, column 2: not finite" in svg
    assert svg.count(f"fill: {light('fail')}") == 1
    assert svg.count("fill: #fde725") == 1, "the bright end of the colours"
    assert {">0.001<", ">0.1<"} <= set(re.findall(r">[\d.e-]+<", svg))
