"""The counts of `embed`, `predict` and `visualize` add up, whatever the images come from."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tests.dinodeploy.sources.every_kind import KINDS
from tests.support.processes.command_line import CommandLine, Ran


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def counts_of(ran: Ran) -> dict[str, Any]:
    """The counts in the JSON of a command, once it is certain that they add up."""
    counts: dict[str, Any] = ran.json["counts"]
    assert counts["seen"] == sum(counts[key] for key in ("embedded", "already", "skipped", "quarantined"))
    assert counts["skipped"] == sum(counts["skipped_by_suffix"].values())
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_embed_counts_every_kind(kind: str, tiny_bundle: Path, run: CommandLine) -> None:
    command = ("embed", *KINDS[kind]("x"), "--engine", tiny_bundle, "--out", "o", "--imgsz", 32)
    counts = counts_of(run(*command, "--json"))
    assert (counts["seen"], counts["embedded"]) == (2, 2)
    again = counts_of(run(*command, "--json"))
    assert (again["seen"], again["embedded"], again["already"]) == (2, 0, 2)
    assert "seen 2: 0 embedded, 2 already there\n" in run(*command).out


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images, a broken one, two files of other kinds, files of systems, and a folder that fails."""
    KINDS["folder"]("x")
    for name in ("broken.jpg", "a.QOI", "b.dng", "Thumbs.db", ".DS_Store"):
        Path("x", name).write_bytes(b"?")
    Path("x/private").mkdir()
    scandir = os.scandir

    def failing(path: Any = ".") -> Any:
        if str(path).endswith("x/private"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    return Path("x")


WANTED = {
    "seen": 6,
    "embedded": 2,
    "already": 0,
    "skipped": 2,
    "quarantined": 2,
    "skipped_by_suffix": {".dng": 1, ".qoi": 1},
}
NOTE = "[sources] skipped 2 files: 1 .dng, 1 .qoi; .dng: convert to JPEG or TIFF first; .qoi: convert"


def test_embed_names_what_it_leaves_out(folder: Path, tiny_bundle: Path, run: CommandLine) -> None:
    command = ("embed", folder, "--engine", tiny_bundle, "--out", "o", "--imgsz", 32)
    ran = run(*command)
    assert ran.code == 5
    assert NOTE in ran.err
    assert "seen 6: 2 embedded, 2 skipped (1 .dng, 1 .qoi), 2 quarantined\n" in ran.out
    lines = Path("o/quarantine.jsonl").read_text()
    assert '"x/private/"' in lines
    assert "cannot be listed: Permission denied" in lines
    assert counts_of(run(*command, "--json", "--overwrite")) == WANTED


def test_parts_of_one_store_count_their_own(folder: Path, tiny_bundle: Path, run: CommandLine) -> None:
    command = ("embed", folder, "--engine", tiny_bundle, "--out", "o", "--imgsz", 32, "--shard-size", 1)
    first = counts_of(run(*command, "--shards", "1/2", "--json"))
    assert first["seen"] == 4  # two of the four images, and what was skipped
    last = counts_of(run(*command, "--shards", "2/2", "--json"))
    assert last["seen"] == 6


def test_visualize_counts_the_same(folder: Path, tiny_bundle: Path, run: CommandLine) -> None:
    command = ("visualize", folder, "--engine", tiny_bundle, "--out", "v", "--imgsz", 32)
    ran = run(*command, "--json")
    assert ran.code == 5
    assert counts_of(ran) == WANTED
    assert NOTE in ran.err
    assert "seen 6: 2 drawn, 2 skipped" in run(*command, "--overwrite").out
