"""The picture of ranges: everything is in it, nothing leaves it, and three writers tell the same."""

from __future__ import annotations

import copy
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from dinodeploy.chart import draw_ranges, write_picture
from dinodeploy.chart.panel import _apart
from dinodeploy.chart.png import SCALE, to_png
from dinodeploy.chart.shapes import INKS, Drawing, Rect, Text
from dinodeploy.chart.svg import to_svg
from dinodeploy.errors import MisuseError
from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.ranges import FP16_LARGEST, Ranges, measure_ranges, predict
from tests.support.overflowing_models import massive_product
from tests.support.photographs import pixels
from tests.support.tiny_models import tiny_config

SVG = "{http://www.w3.org/2000/svg}"


def facts_of(ranges: Ranges) -> dict[str, Any]:
    return {
        "arch": "vit_small",
        "source": "/somebody's/weights & more.pth",
        "fp16_largest": FP16_LARGEST,
        "ranges": ranges.as_dict(),
        "predictions": [prediction.as_dict() for prediction in predict(ranges)],
    }


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return facts_of(measure_ranges(build_model(massive_product()), [pixels(("coffee", "china"), 64, 96)]))


def texts(drawing: Drawing) -> list[str]:
    return [shape.text for shape in drawing.shapes if isinstance(shape, Text)]


def test_it_tells_what_the_table_tells(facts: dict[str, Any]) -> None:
    shown = texts(draw_ranges(facts))
    assert shown[:2] == [
        "Ranges inside vit_small",
        "weights & more.pth · 2 pictures at 64x96 · fp32 reference",
    ]
    assert "fp16 ends at 65,504" in shown
    for prediction in facts["predictions"]:
        assert {prediction["recipe"], prediction["verdict"]} <= set(shown)
    beyond = facts["ranges"]["blocks"][2]["residual"]["tokens_beyond"]
    assert f"{sum(beyond.values())} of 58 tokens" in shown


def test_tokens_past_the_limit_are_red(facts: dict[str, Any]) -> None:
    cells = [s for s in draw_ranges(facts).shapes if isinstance(s, Rect) and "tokens past" in s.title]
    assert len(cells) == 3 * 3
    for cell in cells:
        block, kind = re.match(r"block (\d), (\w+)", cell.title).groups()  # type: ignore[union-attr]
        beyond = facts["ranges"]["blocks"][int(block)]["residual"]["tokens_beyond"][kind]
        assert (cell.ink == "alarm") == (beyond > 0)
        assert f"{beyond} of " in cell.title


@pytest.mark.parametrize("depth", [1, 3, 40])
def test_nothing_leaves_the_picture(depth: int) -> None:
    checkpoint = random_checkpoint(tiny_config("swiglu", depth=depth))
    drawing = draw_ranges(facts_of(measure_ranges(build_model(checkpoint), [pixels(("coffee",), 32, 48)])))
    root = ElementTree.fromstring(to_svg(drawing))
    xs, ys = [], []
    for element in root.iter():
        for x, y in (("x", "y"), ("cx", "cy")):
            if x in element.attrib:
                xs.append(float(element.attrib[x]) + float(element.attrib.get("width", 0)))
                ys.append(float(element.attrib[y]) + float(element.attrib.get("height", 0)))
        for point in element.attrib.get("points", "").split():
            x, y = map(float, point.split(","))
            xs.append(x)
            ys.append(y)
    assert 0 <= min(xs) <= max(xs) <= drawing.width
    assert 0 <= min(ys) <= max(ys) <= drawing.height
    labels = [s for s in drawing.shapes if isinstance(s, Text) and s.x > 772]
    for one in labels:
        for other in labels:
            assert one is other or abs(one.y - other.y) > 10, f"{one.text!r} covers {other.text!r}"


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
    assert _apart(ys, 50.0, 200.0) == wanted


def test_gaps_are_no_zeros(facts: dict[str, Any]) -> None:
    """A block without logits, LayerScale or spreads, and one that was not finite."""
    odd = copy.deepcopy(facts)
    blocks = odd["ranges"]["blocks"]
    blocks[1] |= {"logits": None, "scaled_logits": None, "layer_scale": {}, "spreads": {}}
    blocks[1]["hidden"] = 0.0  # no place on a logarithmic axis
    blocks[2]["residual"]["largest"] = None
    blocks[2]["residual"]["largest_by_kind"]["cls"] = None
    blocks[2]["spreads"]["norm1 output"]["ratio"] = None
    drawing = draw_ranges(odd)
    titles = [shape.title for shape in drawing.shapes if hasattr(shape, "title")]
    assert not any(title.startswith(("block 1, q·k", "block 1, FFN hidden")) for title in titles)
    assert any(title.startswith("block 2, FFN hidden") for title in titles)
    assert any(title.startswith("block 2, cls: not finite") for title in titles)
    ElementTree.fromstring(to_svg(drawing))


def test_svg_stands_alone_and_knows_dark_paper(facts: dict[str, Any]) -> None:
    svg = to_svg(draw_ranges(facts))
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert "weights &amp; more.pth" in svg
    assert not re.findall(r"(?:href|src|url\(|@import)", svg)
    assert "prefers-color-scheme:dark" in svg
    for light, dark in INKS.values():
        assert light in svg
        assert dark in svg
    used = {name.removesuffix("-line") for e in root.iter() if (name := e.attrib.get("class", ""))}
    assert used <= INKS.keys()
    assert to_svg(draw_ranges(facts)) == svg, "the same facts give the same bytes"


@pytest.mark.parametrize("side", [0, 1])
def test_text_can_be_read_on_its_paper(side: int) -> None:
    """WCAG 2.2's contrast ratio: 4.5 for text; "grid" is meant to be faint."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    paper = luminance(INKS["paper"][side])
    for ink in INKS.keys() - {"paper", "grid"}:
        light, dark = sorted((paper, luminance(INKS[ink][side])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, ink


def test_png_shows_the_same_shapes(facts: dict[str, Any]) -> None:
    drawing = draw_ranges(facts)
    image = Image.open(io.BytesIO(to_png(drawing))).convert("RGB")
    assert image.size == (round(drawing.width) * SCALE, round(drawing.height) * SCALE)
    array = np.asarray(image).astype(int)
    assert (array[0, 0] == 255).all()
    red = np.array([0xC8, 0x10, 0x2E])
    for cell in (s for s in drawing.shapes if isinstance(s, Rect) and "tokens past" in s.title):
        pixel = array[int((cell.y + cell.height / 2) * SCALE), int((cell.x + cell.width / 2) * SCALE)]
        wanted = cell.opacity * red + (1 - cell.opacity) * 255
        assert (np.abs(pixel - wanted).max() <= 2) == (cell.ink == "alarm")


def test_html_is_one_page(facts: dict[str, Any], tmp_path: Path) -> None:
    drawing = draw_ranges(facts)
    write_picture(drawing, tmp_path / "r.HTML")
    page = (tmp_path / "r.HTML").read_text(encoding="utf-8")
    assert to_svg(drawing) in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_an_unknown_suffix_is_refused(facts: dict[str, Any], tmp_path: Path) -> None:
    for name in ("r.pdf", "r"):
        with pytest.raises(MisuseError, match=r"wanted one of \.svg, \.png, \.html"):
            write_picture(draw_ranges(facts), tmp_path / name)
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(MisuseError, match="a file in a folder that exists"):
        write_picture(draw_ranges(facts), tmp_path / "folder.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]
