"""The documentation site: it builds without a warning, fetches nothing, and its references are whole."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

import dinodeploy
from dinodeploy.cli.app import make_app
from dinodeploy.parity.judge import THRESHOLDS

ROOT = Path(__file__).parent.parent
pytest.importorskip("mkdocstrings", reason="the site is built with the extra dev")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
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
        assert [tag for tag in tags if re.search(r"(?:src|href)=\W?(?:https?:)?//", tag)] == [], page.name


@pytest.mark.slow
def test_every_page_can_be_reached(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f'href="{page.stem}.html"' in index, page.name


@pytest.mark.slow
def test_the_command_line_is_all_there(site: Path) -> None:
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
def test_every_public_name_is_there(site: Path) -> None:
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    for name in dinodeploy.__all__:
        assert re.search(rf'id="dinodeploy\.(\w+\.)?{name}"', page), name
    for name in ("exporters.bundle.export.export_checkpoint", "dinov3_ref.checkpoints.load_checkpoint"):
        assert f'id="{name}"' in page, name
    assert "An opened bundle." in page, "docstrings"


@pytest.mark.slow
def test_the_precision_table_is_the_judges(site: Path) -> None:
    page = text_of(site / "reference" / "precision.html")
    for thresholds in THRESHOLDS.values():
        for threshold in thresholds:
            assert f"{threshold.limit:g}" in page


def test_every_extra_is_explained() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = pyproject.split("[project.optional-dependencies]")[1].split("\n[")[0]
    told = set(re.findall(r"`([\w-]+)`", " ".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))))
    assert told == set(re.findall(r"^([\w-]+) = \[", extras, re.MULTILINE))


def test_pictures_are_small_and_shown() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size <= 120_000, picture.name
        assert f"](images/{picture.name})" in text, picture.name
