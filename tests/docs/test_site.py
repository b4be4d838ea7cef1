"""The documentation site builds without a warning, fetches nothing, fits the window and is complete."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

import dinodeploy
from dinodeploy.cli.app import make_app
from dinodeploy.parity.thresholds import THRESHOLDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zensical", reason="the site is built with the extra dev")
    out = tmp_path_factory.mktemp("site")
    ran = subprocess.run(
        [sys.executable, "docs/generate", str(out)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return out


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_it_fetches_nothing(site: Path) -> None:
    """Links may lead away; what a page needs to be shown may not."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        tags = re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", text)
        loads = [tag for tag in tags if "canonical" not in tag]
        assert [tag for tag in loads if re.search(r"(?:src|href)=\W?(?:https?:)?//", tag)] == [], page.name


def test_every_page_is_in_the_navigation() -> None:
    named = re.findall(r'= "([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8"))
    assert len(named) == len(set(named))
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert written <= set(named), written - set(named)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_the_window(site: Path, width: int) -> None:
    """Measured in a browser. No table may show an escaped bar either."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        for path in sorted(site.rglob("*.html")):
            page.goto(path.as_uri())
            inner, outer = page.evaluate(
                "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert inner <= outer, f"{path.name} is {inner} px wide in a window of {outer} px"
            assert "\\|" not in page.inner_text("article"), path.name
        browser.close()


@pytest.mark.slow
def test_the_command_line_reference_is_complete(site: Path) -> None:
    page = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    sections = dict(re.findall(r'<h2 id="(dinodeploy[\w-]*)">(.*?)(?=<h2|</article>)', page, re.DOTALL))

    def look(command: Any, path: str) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            look(inner, f"{path}-{name}")
        if not hasattr(command, "commands"):
            for parameter in command.params:
                for name in parameter.opts if parameter.param_type_name == "option" else ():
                    assert f"<code>{name}</code>" in sections[path], f"{path} {name}"

    look(typer.main.get_command(make_app()), "dinodeploy")
    assert "<code>embeddings</code>" in sections["dinodeploy-embed"], "a default"
    assert re.search(r"<td>130</td>", page), "exit codes"


@pytest.mark.slow
def test_the_python_reference_is_complete(site: Path) -> None:
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    for name in dinodeploy.__all__:
        assert re.search(rf'id="dinodeploy\.(\w+\.)?{name}"', page), name
    for name in ("exporters.bundle.export.export_checkpoint", "dinov3_ref.checkpoints.load_checkpoint"):
        assert f'id="{name}"' in page, name
    assert "<i>" not in page, "layer_<i> of a docstring became HTML"
    assert re.search(r"<li>\s*(<p>)?<code>outputs</code>: ", page), "parameters are a list"
    docstring = (dinodeploy.Embedder.__doc__ or "").splitlines()[0].split("`")[0].strip()
    assert docstring in text_of(site / "reference" / "api.html")


@pytest.mark.slow
def test_the_precision_table_is_the_judges(site: Path) -> None:
    page = text_of(site / "reference" / "precision.html")
    for thresholds in THRESHOLDS.values():
        for threshold in thresholds:
            assert f"{threshold.limit:g}" in page


def test_every_extra_is_explained() -> None:
    page = (DOCS / "install.md").read_text(encoding="utf-8")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = pyproject.split("[project.optional-dependencies]")[1].split("\n[")[0]
    told = set(re.findall(r"`([\w-]+)`", " ".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))))
    assert told == set(re.findall(r"^([\w-]+) = \[", extras, re.MULTILINE))


def test_images_are_small_and_shown() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    for image in (DOCS / "images").iterdir():
        assert image.stat().st_size <= 120_000, image.name
        assert f"](images/{image.name})" in text, image.name
