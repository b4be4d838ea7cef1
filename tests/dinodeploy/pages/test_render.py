"""Pages: no value can change one, no unknown value passes, and each style sheet uses the palette."""

from __future__ import annotations

import re
import sys

import jinja2
import pytest

from dinodeploy.errors import UnavailableError
from dinodeploy.pages import render, render_page, script_of, style_of
from dinodeploy.pages.palette import PALETTE

PAGES = ("plot", "predict", "report", "routes", "service", "sheet", "visualize")


def test_no_value_breaks_out() -> None:
    page = render_page("plot", title='</title><script>"\n\x1b[31m\u202e&', subtitle="", width=10, plot="")
    assert "<script" not in page
    assert "&lt;/title&gt;&lt;script&gt;&#34;\\n\\x1b[31m\\u202e&amp;" in page


def test_an_unknown_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'title' is undefined"):
        render_page("plot", width=10, plot="")


@pytest.mark.parametrize("page", PAGES)
def test_style_sheets_use_the_palette(page: str) -> None:
    """Only colours of the palette, and the white of printed paper; only tokens that are defined."""
    style = style_of(page)
    tokens = set(re.findall(r"--([\w-]+):", style.partition(":root {\n")[2].partition("\n}")[0]))
    assert {"text-m", "space-4", "radius-m"} <= tokens
    assert "--heat: linear-gradient(" in style
    assert set(re.findall(r"var\(--([\w-]+)", style)) - {"shape", "row"} <= PALETTE.keys() | tokens | {"heat"}
    assert set(re.findall(r"#[0-9a-f]{3,6}\b(?=[;} ])", style)) <= {
        c for pair in PALETTE.values() for c in pair
    } | {"#fff"}
    assert "@import" not in style
    assert "</" not in style


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_requested_from_elsewhere(page: str) -> None:
    assert not re.search(r"https?:|url\(", style_of(page) + script_of(page))


def test_without_jinja_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    render.environment.cache_clear()
    with pytest.raises(UnavailableError, match=r"HTML pages need Jinja2: pip install 'dinodeploy\[pages\]'"):
        render.check_pages()
