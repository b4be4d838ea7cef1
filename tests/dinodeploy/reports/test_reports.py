"""Which file becomes what; JSON is what the command prints; nothing half-written is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.reports import WRITERS, Report, check_targets, write_report


def test_a_suffix_names_the_format(passing: Report, tmp_path: Path) -> None:
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
    monkeypatch.setitem(WRITERS, ".xml", "dinodeploy.reports.plain:missing")
    with pytest.raises(AttributeError):
        write_report(passing, path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.xml"]
