"""Which file becomes what; JSON is what the command prints; nothing half-written is left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.parity.reports import WRITERS, Report, check_targets, write_report


def test_a_suffix_names_the_format(passing: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
    starts = {".json": "{", ".xml": "<?xml", ".html": "<!doctype html>"}
    assert starts.keys() == WRITERS.keys()
    for suffix, start in starts.items():
        path = tmp_path / f"report{suffix.upper() if suffix == '.xml' else suffix}"
        check_targets([path])
        write_report(passing, path)
        assert path.read_text(encoding="utf-8").startswith(start)


def test_json_holds_everything(failing: Report, tmp_path: Path) -> None:
    write_report(failing, tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    assert data == json.loads(json.dumps(failing.as_json()))
    assert data["passed"] is False
    assert data["bisect"]["departs"] == "blocks.1"
    assert [place["name"] for place in data["bisect"]["places"]][:2] == ["tokens", "blocks.0"]
    assert data["against"]["verdict"] == "reindex: yes"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("report.pdf", "wanted a file that ends in .json, .xml, .html"),
        ("report", "wanted a file that ends in"),
        ("nowhere/report.json", "there is no folder"),
        ("folder.html", "is a folder"),
    ],
)
def test_targets_are_refused_before_any_work(target: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(MisuseError, match=message):
        check_targets([tmp_path / "ok.json", tmp_path / target])


def test_a_report_that_cannot_be_made_leaves_the_old_one(
    passing: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.xml"
    path.write_text("old")
    monkeypatch.setitem(WRITERS, ".xml", "dinodeploy.parity.reports.junit:missing")
    with pytest.raises(AttributeError):
        write_report(passing, path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.xml"]


def test_a_failure_that_no_block_shows(passing: Report, failing: Report) -> None:
    """The words help on: the fault is before, after or around the graph."""
    assert passing.bisect_words == passing.bisection.verdict  # type: ignore[union-attr]
    assert failing.bisect_words.startswith("first departs at blocks.1")
    elsewhere = replace(failing, bisection=passing.bisection)
    assert "look at preprocessing, at other input sizes" in elsewhere.bisect_words
    assert replace(passing, bisection=None).bisect_words == ""
