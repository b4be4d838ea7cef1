"""The page for people: whole, self-contained, well-formed, and saying what the report says."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from dinodeploy.pages.palette import light
from dinodeploy.parity.measurement import Measurement, Verdict
from dinodeploy.parity.reports import Report
from dinodeploy.parity.reports.html import render, worst_patches
from dinodeploy.plots.parity import CURVES, WIDTH

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps the words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def good(passing: Report) -> Page:
    return Page(render(passing))


@pytest.fixture(scope="module")
def bad(failing: Report) -> Page:
    return Page(render(failing))


def test_a_passing_page(good: Page, passing: Report) -> None:
    for words in (
        "✓ Passed",
        f"All {len(passing.verdict.measurements)} measurements agree",
        "Where on the image",
        "No place departs",
        "No need to reindex",
        "DINOv3 License",
    ):
        assert words in good.words, words


def test_a_failing_page(bad: Page, failing: Report) -> None:
    failed, total = len(failing.verdict.failures), len(failing.verdict.measurements)
    for words in (
        "✕ Failed",
        f"{failed} of {total} measurements",
        "First departs at blocks.1",
        "Reindex: the embeddings of the two engines",
    ):
        assert words in bad.words, words
    for measurement in failing.verdict.failures[:3]:
        assert measurement.sentence in bad.words


def test_nothing_is_fetched(good: Page, failing: Report) -> None:
    """Not even a font: the page must open from an artifact store without a network."""
    for name, value in good.attributes:
        assert name not in ("srcset", "href", "onclick")
        if name == "src":
            assert value.startswith("data:image/jpeg;base64,")
        if name == "xlink:href":
            assert value.startswith(("#", "data:image/png;base64,"))
    text = render(failing)
    assert not re.search(r"@import|<script|<link|<iframe", text)
    assert re.findall(r"url\((?!#)", text) == []


def test_every_drawn_number_is_inside_its_plot(bad: Page) -> None:
    places = [float(value) for name, value in bad.attributes if name == "x"]
    assert len(places) > 30
    assert all(0 <= place <= WIDTH for place in places)


def test_values_that_are_not_finite(not_finite: Report) -> None:
    page = Page(render(not_finite))
    assert "not finite" in page.words
    assert "departs at blocks.1" in page.words, "the first fault, not the loudest"
    assert "NaN" in page.words
    assert "nan" not in [value.lower() for name, value in page.attributes if name in ("x", "y", "width")]


def test_foreign_words_are_escaped(passing: Report) -> None:
    note = "<script>alert('x')</script> & more"
    bad = Measurement("wide", "patch", "shape", None, None, False, note)
    text = render(replace(passing, verdict=Verdict("fp32", (bad,))))
    assert "<script" not in text
    assert note in Page(text).words


def test_tokens_of_a_users_own_have_a_curve(passing: Report) -> None:
    found = passing.bisection
    assert found is not None
    places = tuple(replace(p, groups={**p.groups, "extra": p.groups["storage"]}) for p in found.places)
    page = Page(render(replace(passing, bisection=replace(found, places=places))))
    assert "own tokens" in page.words
    assert any(light(CURVES["extra"][1]) in value for name, value in page.attributes if name == "style")


def test_no_map_without_patches(passing: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    from dinodeploy.backends.onnxruntime import OnnxRuntimeBackend

    original = OnnxRuntimeBackend.run
    monkeypatch.setattr(OnnxRuntimeBackend, "run", lambda self, x: {"cls": original(self, x)["cls"]})
    assert worst_patches(passing.engine, passing.verdict) is None
    assert "Where on the image" not in Page(render(passing)).words


def test_the_map_shows_where_patches_are_off(passing: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two patches of the second photograph of one case are moved; they are found."""
    from dinodeploy.backends.onnxruntime import OnnxRuntimeBackend

    original = OnnxRuntimeBackend.run

    def spoilt(self: OnnxRuntimeBackend, pixels: np.ndarray) -> dict[str, np.ndarray]:
        outputs = original(self, pixels)
        if pixels.shape[2:] == (256, 144):
            outputs["patch"][1, 3, 2] *= -1
            outputs["patch"][1, 9, 7] = np.nan
        return outputs

    monkeypatch.setattr(OnnxRuntimeBackend, "run", spoilt)
    tall = Measurement("tall", "patch", "relative_frobenius", 0.5, 1e-5, False)
    wide = Measurement("wide", "patch", "relative_frobenius", 0.1, 1e-5, False)
    found = worst_patches(passing.engine, Verdict("fp32", (wide, tall)))
    assert found is not None
    assert (found.case, found.errors.shape, found.image.shape) == ("tall", (16, 9), (256, 144, 3))
    assert found.errors[3, 2] == pytest.approx(2.0)
    assert np.isnan(found.errors[9, 7])
    assert np.sort(found.errors[np.isfinite(found.errors)])[-2] < 1e-5


def test_the_photograph_is_what_the_model_was_shown(passing: Report) -> None:
    from dinodeploy.parity.golden import load_golden

    found = worst_patches(passing.engine, passing.verdict)
    assert found is not None
    case = next(c for c in load_golden(passing.bundle.root / "golden.safetensors") if c.name == found.case)
    means = [image.reshape(-1, 3).mean(axis=0) for image in case.images]
    shown = found.image.reshape(-1, 3).mean(axis=0)
    assert min(np.abs(mean - shown).max() for mean in means) < 2, "grey levels"
