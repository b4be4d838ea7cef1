"""The page of predictions: what it holds of each image, and that it works in a browser."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinodeploy.tasks.prediction import Prediction, Region
from dinodeploy.tasks.results.draw import Legend
from dinodeploy.tasks.results.page import page_item, render_predictions

CHROMIUM = shutil.which("chromium")
LEGEND = Legend(("sky", "cup", "</script><b>"))
IMAGE = Image.new("RGB", (1280, 960), (90, 120, 150))
IDS = np.zeros((960, 1280), np.int64)
IDS[:480], IDS[480:, :640] = 1, 2


def decoded(uri: str) -> Any:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image)


def test_a_class_map_keeps_its_ids() -> None:
    item = page_item(
        IMAGE, "a/b.jpg", Prediction("segment", {"shares": {"cup": 0.5, "sky": 0.25}}, IDS), LEGEND
    )
    assert (item["name"], item["size"], item["perPixel"]) == ("b.jpg", [640, 480], True)
    assert (decoded(item["map"]) == IDS[::2, ::2]).all()
    assert [(one["label"], one["share"]) for one in item["classes"]] == [(1, 0.5), (0, 0.25)]


def test_a_map_of_objects_counts_them_and_boxes_are_shares() -> None:
    regions = (Region(1, "cup", 0.9, id=2), Region(0, "sky", 0.8, (0, 0, 1280, 480), id=1, thing=False))
    item = page_item(IMAGE, "a.jpg", Prediction("panoptic", {}, IDS, regions), LEGEND)
    assert (decoded(item["map"]) == np.array([0, 2, 1])[IDS[::2, ::2]]).all()
    assert [one["box"] for one in item["regions"]] == [[0, 0.5, 0.5, 1], [0, 0, 1, 0.5]]
    boxes = Prediction("detect", regions=(Region(1, "cup", 0.9, (0, 480, 640, 960)),))
    assert page_item(IMAGE, "a.jpg", boxes, LEGEND)["map"] is None


def test_names_cannot_break_out_and_classes_are_counted() -> None:
    regions = (Region(2, LEGEND.classes[2], 0.9, (0, 0, 9, 9)), Region(1, "cup", 0.5, (0, 0, 9, 9)))
    item = page_item(IMAGE, "<i>\u202e.jpg", Prediction("detect", regions=regions), LEGEND)
    page = render_predictions("detect", [item, item], 7, LEGEND)
    assert "7 images. The first 2 are shown." in page
    assert "</script><b>" not in page
    assert "<i>" not in page.split("<script")[0]
    assert '"count": 2' in page


def test_classes_are_listed_by_area_and_counted_below_an_image() -> None:
    """The first five stand below an image, then how many more; shares and metres have their units."""
    shares = {"sky": 0.1, "cup": 0.6, **{f"c{at}": 0.01 for at in range(6)}}
    legend = Legend(("sky", "cup", *(f"c{at}" for at in range(6))))
    item = page_item(IMAGE, "a.jpg", Prediction("segment", {"shares": shares}, IDS), legend)
    page = render_predictions("segment", [item], 1, legend)
    assert re.findall(r'title="([^"]+): 1 images"', page)[:2] == ["cup", "sky"]
    assert "cup 60.0 %" in page
    assert "and 3 more" in page
    metres = {"nearest": 1.0, "median": 2.5, "farthest": 4.125}
    depth = Prediction("depth", {"metres": metres}, np.full((960, 1280), 2, np.float32))
    page = render_predictions("depth", [page_item(IMAGE, "a.jpg", depth, LEGEND)], 1, LEGEND)
    assert "<span>1.00 m</span><i></i><span>4.12 m</span>" in page
    assert "1 image." in page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_page_works_in_a_browser(tmp_path: Path) -> None:
    """Areas are drawn; a class can be seen alone; the score hides images; one image becomes large."""
    playwright = pytest.importorskip("playwright.sync_api")
    one = Prediction("instance", {}, IDS, (Region(0, "sky", 0.9, id=1), Region(1, "cup", 0.6, id=2)))
    other = Prediction("instance", {}, IDS, (Region(1, "cup", 0.3, id=2),))
    items = [
        page_item(IMAGE, f"{name}.jpg", found, LEGEND) for name, found in (("one", one), ("other", other))
    ]
    (tmp_path / "page.html").write_text(render_predictions("instance", items, 2, LEGEND), "utf-8")
    top, left = "[20, 10]", "[20, 90]"
    pixel = """([x, y]) => { const c = document.querySelector("main canvas");
        return [...c.getContext("2d").getImageData(c.width * x / 100, c.height * y / 100, 1, 1).data]; }"""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_function("() => data.items.every((item) => item.ready)")
        page.locator("#boxes").uncheck()
        page.locator("#opacity").fill("100")

        def at(point: str) -> list[int]:
            return list(page.evaluate(f"({pixel})({point})"))

        assert at(top)[:3] == list(LEGEND.colour(0))
        assert at(left)[:3] == list(LEGEND.colour(1))
        page.get_by_role("button", name="sky").click()
        assert (at(top)[3], at(left)[3]) == (255, 0)
        assert page.locator("main figure:visible").count() == 1
        page.get_by_role("button", name="All").click()
        page.locator("#least").fill("50")
        assert page.locator("#status").inner_text() == "1 of 2 images"
        page.locator("main figure").first.click()
        assert page.locator("dialog li").all_inner_texts() == ["sky\n0.90", "cup\n0.60"]
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
        assert errors == []
        browser.close()
