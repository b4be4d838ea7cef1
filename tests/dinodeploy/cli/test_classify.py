"""`dinodeploy classify`: labels of a file, broken images, and what is there already."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes.command_line import CommandLine
from tests.support.text.words import SHAPES, write_shapes


def test_labels_of_a_file(
    words_bundle: Path, tmp_path: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "shapes", SHAPES)
    Path("shapes", "broken.jpg").write_bytes(b"")
    Path("labels.txt").write_bytes("\ufeffa red circle\r\n\r\na yellow star\r\na red circle\r\n".encode())
    options = ("shapes", "--engine", words_bundle, "--labels", "labels.txt", "--templates", "none")
    ran = run("classify", *options, "--json", "--out", "classes")
    assert ran.code == 5
    best = {Path(row["id"]).name: row["classes"][0]["class"] for row in ran.json["predictions"]}
    assert (best["a.png"], best["b.png"]) == ("a red circle", "a yellow star")
    assert "[labels] labels.txt: repeated labels count once: 'a red circle' in lines 1 and 4" in ran.err
    assert ran.json["counts"]["quarantined"] == 1
    again = run("classify", *options, "--out", "classes")
    assert again.code == 2
    assert "holds predictions already; give --overwrite" in again.err
    ran = run("classify", *options, "--top", "0")
    assert "--top is 0; wanted at least 1" in ran.err
