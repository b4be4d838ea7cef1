"""Threads or processes: chosen by counts, and the same bytes in the store."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from dinodeploy import MisuseError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline import decoders
from dinodeploy.pipeline.decoders import choose_decoders, parse_decode
from dinodeploy.pipeline.processes import pool as pools
from dinodeploy.sources import FileSource, SourceOptions, open_source
from tests.support.fake_engine import HALF, SMALL, MadeUp, embed_all, tree
from tests.support.images.photographs import photograph

FILES = FileSource(["a.jpg"])


@pytest.mark.parametrize(
    ("cores", "images", "workers", "wanted"),
    [
        (2, 10_000, None, ("threads", 2)),
        (16, 1023, None, ("threads", 8)),
        (16, 1024, None, ("processes", 16)),
        (3.5, 10_000, None, ("processes", 4)),  # a container's quota
        (64, 4096, None, ("processes", 64)),
        (64, 4096, 3, ("threads", 3)),
        (2, 4096, 12, ("processes", 12)),
    ],
)
def test_the_rule_counts(
    monkeypatch: pytest.MonkeyPatch, cores: float, images: int, workers: int | None, wanted: Any
) -> None:
    monkeypatch.setattr(decoders, "hardware_threads", lambda: cores)
    monkeypatch.setattr("dinodeploy.pipeline.decode.hardware_threads", lambda: cores)
    assert choose_decoders(FILES, images, workers) == wanted


def test_what_only_this_process_can_read_stays_in_threads() -> None:
    assert choose_decoders(MadeUp(1), 10_000, 16)[0] == "threads"
    with pytest.raises(MisuseError, match="only this process can read these images; use threads"):
        choose_decoders(MadeUp(1), 10_000, 16, "processes")
    with pytest.raises(MisuseError, match="decode is 'fibers'; wanted auto, threads or processes"):
        parse_decode("fibers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for index, name in enumerate(["astronaut", "", "chelsea", "coffee", "", "rocket", "chelsea"]):
        path = tmp_path / "in" / f"{index}.jpg"
        if name:
            photograph(name).resize((120 + index, 90)).save(path)
        else:
            path.write_bytes(b"no picture")
    return tmp_path / "in"


@pytest.mark.parametrize("preset", ["official", "keep-aspect"])
def test_processes_change_no_byte(folder: Path, tmp_path: Path, preset: str) -> None:
    """Of files, of a list that names one which is missing, and of a tar file; with unreadable ones."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder, "b")
    (tmp_path / "list.txt").write_text(f"{folder / '3.jpg'}\n{tmp_path / 'absent.jpg'}\n")
    source = open_source([folder, tmp_path / "a.tar", tmp_path / "list.txt"], SourceOptions())
    steps = Preprocess.from_preset(preset, (32, 32), HALF, HALF)
    made = {}
    for how in ("threads", "processes"):
        run = {"decode": how, "workers": 2}
        report, _ = embed_all(source, tmp_path / how, preprocess=steps, shard_size=6, run=run)
        made[how] = tree(tmp_path / how)
        assert (report.embedded, report.quarantined) == (10, 5)
    assert made["threads"] == made["processes"]


def test_threads_where_processes_cannot_be_had(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "WORKER", "no_such_module")
    source, lines = FileSource(sorted(map(str, folder.iterdir()))), list[str]()
    run = {"decode": "processes", "workers": 2, "log": lines.append}
    report, _ = embed_all(source, tmp_path / "out", preprocess=SMALL, run=run)
    assert report.images == 7
    assert lines[0] == "[decode] in 2 processes"
    assert lines[1].endswith("threads: processes cannot be had: a process did not start (exit 1)")
