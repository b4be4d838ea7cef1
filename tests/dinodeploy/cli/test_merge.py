"""`dinodeploy merge`, and `embed --update` of what it wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinodeploy import load_embeddings
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "retina")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, chosen in (("one", NAMES[:3]), ("two", NAMES[3:])):
        (tmp_path / name).mkdir()
        for image in chosen:
            photograph(image).resize((80, 64)).save(tmp_path / name / f"{image}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_folders_become_one_store(tiny_bundle: Path, folders: Path, run: CommandLine) -> None:
    options = ("--engine", tiny_bundle, "--imgsz", 32, "--batch", 2, "--shard-size", 2)
    for name in ("one", "two"):
        assert run("embed", name, *options, "--out", f"{name}_out").code == 0
    merged = run("merge", "one_out", "two_out", "--out", "both", "--json").json
    assert (merged["embedded"], merged["quarantined"], merged["repeated"]) == (5, 0, 0)
    assert run("embed", "one", "two", *options, "--out", "anew").code == 0
    assert load_embeddings("both")[0] == load_embeddings("anew")[0]
    assert (load_embeddings("both")[1] == load_embeddings("anew")[1]).all()
    again = run("embed", "one", "two", *options, "--out", "both")
    assert "complete already, 5 images embedded" in again.out
    (folders / "two/rocket.png").unlink()
    refused = run("embed", "one", "two", *options, "--out", "both")
    assert (refused.code, "both: 1 missing images since it was made; pass --update" in refused.error) == (
        2,
        True,
    )
    updated = run("embed", "one", "two", *options, "--out", "both", "--update", "--json").json
    assert (updated["embedded"], updated["missing"], updated["generation"]) == (4, 1, 2)
    refused = run("merge", "one_out", "two_out", "--out", "both")
    assert (refused.code, "pass --overwrite" in refused.error) == (2, True)
