"""Axes and labels by hand; three formats of one plot: the same bytes each time, no requests, both themes."""

from __future__ import annotations

import io
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.pages.palette import PALETTE, light
from dinodeploy.plots.canvas import (
    PNG_SCALE,
    TIP,
    Canvas,
    Plot,
    apart,
    as_power,
    check_plot_path,
    decades,
    inline_svg,
    log_place,
    short,
    to_html,
    to_png,
    to_svg,
    write_plot,
)

SVG = "{http://www.w3.org/2000/svg}"
NASTY = "</svg><script>alert('$1 & $2')"
needs_matplotlib = pytest.mark.skipif(
    find_spec("matplotlib") is None,
    reason="matplotlib is not installed (extra `plots`)",
)


def draw(canvas: Canvas) -> None:
    axes = canvas.axes((50, 20, 150, 80))
    axes.set_xlim(0, 2)
    axes.set_ylim(1, 0)
    (bar,) = axes.barh(0.5, 1, 1, color=light("fail"))
    bar.set_gid(f"{TIP}a tip & {NASTY}")
    canvas.text(10, 95, NASTY)


PLOT = Plot(NASTY, 200, 100, draw)


@needs_matplotlib
def test_an_svg_stands_alone_and_follows_the_theme() -> None:
    svg = to_svg(PLOT)
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert (root.attrib["width"], root.attrib["height"], root.attrib["viewBox"]) == (
        "200",
        "100",
        "0 0 200 100",
    )
    assert [title.text for title in root.iter(f"{SVG}title")] == [NASTY, f"a tip & {NASTY}"]
    assert [text.text for text in root.iter(f"{SVG}text")] == [NASTY], "text stays text"
    assert "prefers-color-scheme: dark" in svg
    assert all(dark in svg for _, dark in PALETTE.values())
    assert not re.findall(r"@import|url\((?!#)|href=\"(?!#)|<script", svg)
    assert not re.findall(r"https?://(?!www\.w3\.org)", svg)
    assert to_svg(PLOT) == svg, "the same plot gives the same bytes"


@needs_matplotlib
def test_a_png_shows_the_same_on_light_paper() -> None:
    data = to_png(PLOT)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    assert image.size == (200 * PNG_SCALE, 100 * PNG_SCALE)
    pixels = np.asarray(image)
    assert (pixels[0, 0] == 255).all()
    for x, wanted in ((75, light("fail")), (125, light("card"))):
        assert "#{:02x}{:02x}{:02x}".format(*pixels[50 * PNG_SCALE, x * PNG_SCALE]) == wanted
    assert to_png(PLOT) == data


@needs_matplotlib
def test_an_html_page_holds_the_svg(tmp_path: Path) -> None:
    write_plot(PLOT, tmp_path / "r.HTML")
    page = (tmp_path / "r.HTML").read_text(encoding="utf-8")
    assert inline_svg(PLOT) in page
    assert "<script" not in page
    assert not re.findall(r"https?://(?!www\.w3\.org)", page)


@needs_matplotlib
def test_the_head_is_text_on_a_page_and_drawn_in_a_file() -> None:
    plot = Plot("A title", 200, 100, draw, "and more", head=30)
    drawn, inline = to_svg(plot), inline_svg(plot)
    assert ">A title</text>" in drawn
    assert ">and more</text>" in drawn
    assert "</text>" in inline
    assert "A title</text>" not in inline
    assert 'viewBox="0 0 200 100"' in drawn
    assert 'viewBox="0 30 200 70"' in inline
    page = to_html(plot).decode()
    assert re.search(r"<h1[^>]*>A title</h1>", page)
    assert re.search(r"<p[^>]*>and more</p>", page)


@needs_matplotlib
@pytest.mark.parametrize("name", ["r.pdf", "r", "folder.svg", "nowhere/r.svg"])
def test_other_paths_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.svg").mkdir()
    wanted = (
        "a file in a folder that exists" if name.endswith(".svg") else r"wanted one of \.svg, \.png, \.html"
    )
    with pytest.raises(MisuseError, match=wanted):
        write_plot(PLOT, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]


def test_without_matplotlib_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnavailableError, match=r"plots need matplotlib: pip install 'dinodeploy\[plots\]'"):
        check_plot_path(tmp_path / "r.svg")


@pytest.mark.parametrize(
    ("ys", "wanted"),
    [
        ([100.0, 200.0], [100.0, 200.0]),
        ([198.0, 199.0, 200.0], [170.0, 185.0, 200.0]),
        ([200.0, 200.0], [185.0, 200.0]),
        ([51.0, 51.0, 51.0], [50.0, 65.0, 80.0]),
    ],
)
def test_labels_are_moved_apart(ys: list[float], wanted: list[float]) -> None:
    assert apart(ys, 50.0, 200.0) == wanted


def test_decades() -> None:
    assert decades([3e-7, 1e-5]) == (-7, -5)
    assert decades([1e-5], least=2) == (-5, -3)
    assert decades([None, 0.0]) == (0, 1)


def test_places_on_a_logarithmic_axis() -> None:
    places = [log_place(value, -6, -4, 100, 300) for value in (1e-6, 1e-5, 1e-4)]
    assert places == pytest.approx([100, 200, 300])
    assert [log_place(value, -6, -4, 100, 300) for value in (0.0, 1e-9, 1.0)] == [100, 100, 300]


def test_numbers_in_words() -> None:
    assert [as_power(power) for power in (-4, -3, 0, 5, 6)] == ["1e-4", "0.001", "1", "100,000", "1e6"]
    assert [short(value) for value in (None, 0.0, 1.26e-5, 0.06, 2.0, 340.0)] == [
        "not finite", "0", "1.3e-05", "0.06", "2", "3.4e+02"
    ]  # fmt: skip
