"""`dinodeploy segment`: maps and overlays of labels, and an empty labels file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes.command_line import CommandLine
from tests.support.text.words import SHAPES, write_shapes


def test_maps_of_labels(
    words_bundle: Path, tmp_path: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "shapes", SHAPES)
    Path("labels.txt").write_text("a red circle\na blue background\n")
    options = ("shapes", "--engine", words_bundle, "--labels", "labels.txt", "--templates", "none")
    sizes = ("--imgsz", "64", "--window", "32", "--stride", "16")
    ran = run("segment", *options, *sizes, "--out", "maps", "--html", "page.html")
    assert ran.code == 0, ran.err
    page = Path("page.html").read_text("utf-8")
    assert "a red circle" in page
    assert "page: page.html; open it in a browser" in ran.out
    assert len(list(Path("maps").glob("*_classes.png"))) == len(SHAPES)
    assert "maps: 6 predictions in predictions.jsonl and images" in ran.out
    Path("labels.txt").write_text("\n")
    ran = run("segment", *options, *sizes, "--out", "none")
    assert ran.code == 2
    assert "labels.txt is empty; wanted one label per line" in ran.error
    assert not Path("none").exists()
