"""Every page in a browser: both themes, three widths, names that are hard to lay out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages.browser import (
    CHROMIUM,
    CUT,
    FAINT,
    FOCUS,
    NAMELESS,
    OUTSIDE,
    SCHEMES,
    SHIFT,
    WIDE,
    WIDTHS,
    chromium,
    watch,
)
from tests.support.pages.samples import SAMPLES

pytest.importorskip("playwright.sync_api")
pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
MOST_SHIFT = 0.02  # of the window; Google calls 0.1 good


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.mark.parametrize("name", SAMPLES)
def test_a_page_can_be_read_at_every_width_in_both_themes(name: str, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(SAMPLES[name](tmp_path), "utf-8")
    for scheme in SCHEMES:
        page = browser.new_page(
            viewport={"width": WIDTHS[0], "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        problems = watch(page)
        page.goto((tmp_path / "page.html").as_uri())
        assert page.evaluate(SHIFT) <= MOST_SHIFT
        assert page.evaluate(FAINT) == []
        assert page.evaluate(NAMELESS) == []
        assert page.evaluate(OUTSIDE) == []
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(WIDE) == [], width
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(CUT) == [], width
        for _ in range(4):
            page.keyboard.press("Tab")
            assert page.evaluate(FOCUS), page.evaluate("document.activeElement.outerHTML.slice(0, 80)")
        assert page.locator("h1").count() == 1
        assert problems == []
        page.close()


def test_the_measures_find_what_they_are_for(browser: Any) -> None:
    """A page that has every fault."""
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.set_content(
        """<body style="background: #fff"><h1 style="width: 99px; overflow: hidden; white-space: nowrap">
        A heading that is much longer</h1><p style="color: #999">faint</p><div style="width: 500px">wide</div>
        <img alt=""><button></button><a href="#" style="outline: none">focus</a>
        <svg class="plot" width="60"><title>plot</title><text x="40">too long</text></svg></body>"""
    )
    assert page.evaluate(FAINT) == ["faint: 2.85"]
    assert page.evaluate(WIDE) == ["DIV."]
    assert [words.strip()[:9] for words in page.evaluate(CUT)] == ["A heading"]
    assert len(page.evaluate(NAMELESS)) == 2
    assert page.evaluate(OUTSIDE) == ["too long"]
    page.locator("a").focus()
    assert not page.evaluate(FOCUS)
    page.close()
