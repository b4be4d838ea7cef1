"""The plot of ranges: everything is in it, and nothing is outside it."""

from __future__ import annotations

import copy
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from dinodeploy.pages.palette import light
from dinodeploy.plots import draw_ranges
from dinodeploy.plots.canvas import to_svg
from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.ranges import FP16_LARGEST, Ranges, measure_ranges, predict
from tests.support.images.photographs import pixels
from tests.support.overflowing_models import massive_product
from tests.support.tiny_models import tiny_config

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
SVG = "{http://www.w3.org/2000/svg}"


def facts_of(ranges: Ranges) -> dict[str, Any]:
    return {
        "arch": "vit_small",
        "source": "/a user's/weights $1 & $more.pth",
        "fp16_largest": FP16_LARGEST,
        "ranges": ranges.as_dict(),
        "predictions": [prediction.as_dict() for prediction in predict(ranges)],
    }


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return facts_of(measure_ranges(build_model(massive_product()), [pixels(("coffee", "china"), 64, 96)]))


def drawn(facts: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(to_svg(draw_ranges(facts)))


def words(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def tips(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """What is shown on hover, and the element that shows it."""
    return {
        title.text or "": group for group in root.iter(f"{SVG}g") for title in group.findall(f"{SVG}title")
    }


def test_it_says_what_the_table_says(facts: dict[str, Any]) -> None:
    shown = words(drawn(facts))
    assert "Ranges inside vit_small" in shown
    assert "weights $1 & $more.pth · 2 images at 64x96 · fp32 reference" in shown
    assert "fp16 limit: 65,504" in shown
    for prediction in facts["predictions"]:
        assert {prediction["recipe"], prediction["verdict"]} <= set(shown)
    beyond = facts["ranges"]["blocks"][2]["residual"]["tokens_beyond"]
    assert f"{sum(beyond.values())} of 58 tokens" in shown


def test_tokens_past_the_limit_are_red(facts: dict[str, Any]) -> None:
    cells = {tip: group for tip, group in tips(drawn(facts)).items() if "tokens past" in tip}
    assert len(cells) == 3 * 3
    for tip, group in cells.items():
        block, kind = re.match(r"block (\d), (\w+)", tip).groups()  # type: ignore[union-attr]
        beyond = facts["ranges"]["blocks"][int(block)]["residual"]["tokens_beyond"][kind]
        path = group.find(f"{SVG}path")
        assert path is not None
        assert (f"fill: {light('fail')}" in path.attrib["style"]) == (beyond > 0)
        assert f"{beyond} of " in tip


@pytest.mark.parametrize("depth", [1, 3, 40])
def test_nothing_is_outside_the_plot(depth: int) -> None:
    checkpoint = random_checkpoint(tiny_config("swiglu", depth=depth))
    facts = facts_of(measure_ranges(build_model(checkpoint), [pixels(("coffee",), 32, 48)]))
    plot = draw_ranges(facts)
    root = ElementTree.fromstring(to_svg(plot))
    labels = []
    for use in root.iter(f"{SVG}use"):
        assert 0 <= float(use.attrib["x"]) <= plot.width
        assert 0 <= float(use.attrib["y"]) <= plot.height
    for text in root.iter(f"{SVG}text"):
        place = re.match(r"translate\(([\d.]+) ([\d.]+)\)", text.attrib["transform"])
        x, y = map(float, place.groups()) if place else (float(text.attrib["x"]), float(text.attrib["y"]))
        assert 0 <= x <= plot.width
        assert 0 <= y <= plot.height
        if x > 772:
            labels.append((y, text.text))
    labels.sort(key=lambda label: label[0])
    for (above, one), (below, other) in pairwise(labels):
        assert below - above > 10, f"{one!r} covers {other!r}"


def test_gaps_are_not_zeros(facts: dict[str, Any]) -> None:
    """A block without logits, LayerScale or spreads, and one that was not finite."""
    odd = copy.deepcopy(facts)
    blocks = odd["ranges"]["blocks"]
    blocks[1] |= {"logits": None, "scaled_logits": None, "layer_scale": {}, "spreads": {}}
    blocks[1]["hidden"] = 0.0  # no place on a logarithmic axis
    blocks[2]["residual"]["largest"] = None
    blocks[2]["residual"]["largest_by_kind"]["cls"] = None
    blocks[2]["spreads"]["norm1 output"]["ratio"] = None
    shown = tips(drawn(odd))
    assert not any(tip.startswith(("block 1, q·k", "block 1, FFN hidden")) for tip in shown)
    assert any(tip.startswith("block 2, FFN hidden") for tip in shown)
    assert any(tip.startswith("block 2, cls: not finite") for tip in shown)
