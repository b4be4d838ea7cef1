"""What a directory of predictions may replace; shards that are damaged or half written are made again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import MisuseError, OutputExistsError, UnavailableError
from dinodeploy.sources import FileSource, Stamps
from dinodeploy.store.plan import Plan
from dinodeploy.tasks.results.store import FORMAT, TABLE, PredictionStore, check_target

PLAN = Plan("0", 3, 2, ("out",), FORMAT, "float32", 1, {})
NAMES = ("000001_a_classes.png", "000002_b_classes.png", "000003_c_classes.png")
VALUES = {"out": np.zeros(2, np.float32)}


def make(
    position: int, id: str, outputs: Mapping[str, FloatArray], size: tuple[int, int], folder: Path | None
) -> dict[str, Any]:
    assert folder is not None
    (folder / NAMES[position]).write_bytes(id.encode())
    return {"id": id, "mask": NAMES[position]}


def store(out: Path) -> PredictionStore:
    return PredictionStore(out, PLAN, make, stamps=Stamps(FileSource(["a", "b", "c"])))


def fill(opened: PredictionStore, shards: list[int]) -> None:
    for index in shards:
        rows = opened.start(index)
        for position in PLAN.shard(index):
            assert rows.add(position, "abc"[position], VALUES, (4, 4)) == ""
        opened.commit(index, rows)


def nothing(result: Path, segments: Path, rows: Any) -> None: ...


def test_a_killed_run_keeps_its_shards(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with store(out) as opened:
        fill(opened, [0])
    with store(out) as opened:
        assert opened.remaining == [1]
        fill(opened, [1])
        assert opened.finish(nothing) == (3, [])
    assert sorted(path.name for path in out.iterdir()) == [*NAMES, TABLE, "quarantine.jsonl"]
    assert (out / NAMES[2]).read_bytes() == b"c"


@pytest.mark.parametrize("damage", ["record", "file", "shorter"])
def test_a_damaged_shard_is_made_again(damage: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with store(out) as opened:
        fill(opened, [0, 1])
    record, file = out / ".embed/shards/00000.jsonl", out / ".embed/result" / NAMES[0]
    if damage == "record":
        record.write_bytes(record.read_bytes()[:-20])
    elif damage == "file":
        file.unlink()
    else:
        file.write_bytes(b"")
    with store(out) as opened:
        assert opened.remaining == [0]


def test_a_record_that_names_a_file_elsewhere_is_not_believed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with store(out) as opened:
        fill(opened, [0])
    record = out / ".embed/shards/00000.jsonl"
    record.write_text(record.read_text().replace(NAMES[0], "../../000001_a_classes.png"))
    with store(out) as opened:
        assert opened.remaining == [0, 1]


def test_a_publication_that_was_interrupted_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dinodeploy.files import atomic

    out = tmp_path / "out"
    replace, left = atomic.replace, iter(range(2))

    def fails(source: Path, target: Path) -> None:
        if target.parent == out and next(left, None) is None:
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    with store(out) as opened:
        fill(opened, [0, 1])
        monkeypatch.setattr(atomic, "replace", fails)
        with pytest.raises(
            UnavailableError, match="finished images are kept: fix it and run the same command"
        ):
            opened.finish(nothing)
        monkeypatch.undo()
    assert not (out / TABLE).exists()
    assert (out / NAMES[0]).is_file(), "moved before the disk was full"
    with store(out) as opened:
        assert opened.remaining == []
        opened.finish(nothing)
    assert sorted(path.name for path in out.iterdir()) == [*NAMES, TABLE, "quarantine.jsonl"]


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with store(tmp_path / "out"), pytest.raises(MisuseError, match="is being written by process"):
        store(tmp_path / "out").__enter__()


def test_an_error_before_the_first_shard_leaves_no_directory(tmp_path: Path) -> None:
    def interrupted() -> None:
        with store(tmp_path / "out"):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_only_predictions_are_replaced(tmp_path: Path) -> None:
    check_target(tmp_path / "new", overwrite=False)
    check_target(tmp_path, overwrite=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"holds no predictions\.jsonl; choose another --out"):
        check_target(tmp_path, overwrite=True)
    (tmp_path / TABLE).write_text("")
    with pytest.raises(OutputExistsError, match=r"also holds 'notes\.txt', so it is not replaced"):
        check_target(tmp_path, overwrite=True)
    (tmp_path / "notes.txt").rename(tmp_path / "000001_notes_depth.png")
    check_target(tmp_path, overwrite=True)
    with pytest.raises(OutputExistsError, match="give --overwrite or another --out"):
        check_target(tmp_path, overwrite=False)
