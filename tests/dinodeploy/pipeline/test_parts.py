"""`--shards i/n`: several processes make one store, and it is the one that a single process makes."""

from __future__ import annotations

import random
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dinodeploy import BundleError, MisuseError, OutputExistsError, load_embeddings
from tests.support.fake_engine import MadeUp, embed_all, embedder, engine, tree
from tests.support.processes.kill_runner import Children

COUNT, BAD = 22, (3, 8, 9, 10, 11)  # six shards of four, the third without rows


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    with Children() as children:
        yield children


def source() -> MadeUp:
    return MadeUp(COUNT, BAD)


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_parts_one_after_the_other(tmp_path: Path, parts: int) -> None:
    """In any order; more parts than shards too. The last to end completes the store."""
    embed_all(source(), tmp_path / "alone")
    order = random.Random(parts).sample(range(1, parts + 1), parts)
    done = 0
    for number, part in enumerate(order):
        report, manifest = embed_all(source(), tmp_path / "out", part=(part, parts))
        done += report.embedded + report.quarantined
        if manifest is None:
            with pytest.raises(BundleError, match="of 6 shards"):
                load_embeddings(tmp_path / "out")
        assert (manifest is not None) == (done == COUNT), number
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")


def test_parts_at_the_same_time(tmp_path: Path) -> None:
    """All end together: the last one writes the manifest, and the clean-up disturbs nobody."""
    embed_all(source(), tmp_path / "alone")
    for attempt in range(15):
        out = tmp_path / f"{attempt}"
        meet = threading.Barrier(3, timeout=20)

        def work(part: int, out: Path = out, meet: threading.Barrier = meet) -> Any:
            meet.wait()
            return embed_all(source(), out, part=(part, 3))[1]

        with ThreadPoolExecutor(3) as pool:
            manifests = list(pool.map(work, (1, 2, 3)))
        assert any(manifests)
        assert tree(out) == tree(tmp_path / "alone"), attempt


def test_clean_up_of_another_part_while_the_last_shard_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other part sees that all shards are there, and is half through removing the records."""
    embed_all(source(), tmp_path / "alone")
    out, remove = tmp_path / "out", shutil.rmtree
    embed_all(source(), out, part=(1, 2))
    work = out / ".embed"

    def other_part_ends(path: Path, *args: Any, **options: Any) -> None:
        if Path(path) == work:
            remove(work / "shards")  # and no more: it is still at it
            return
        records = sum(1 for _ in work.glob("shards/*.json"))
        if records == 6 and path.parent.parent == work and path.name.isdecimal():
            remove(path)
            assert embed_all(source(), out, part=(1, 2))[1] is not None
        remove(path, *args, **options)

    monkeypatch.setattr(shutil, "rmtree", other_part_ends)
    assert embed_all(source(), out, part=(2, 2))[1] is not None
    monkeypatch.undo()
    embed_all(source(), out)
    assert tree(out) == tree(tmp_path / "alone")


def test_a_part_that_was_killed_is_done_again(child: Children, tmp_path: Path) -> None:
    """Nothing of the others' work is lost."""
    child(tmp_path / "alone")
    changes = child(tmp_path / "half", part=(1, 2))["changes"]
    for change in range(3, changes, 6):
        out = tmp_path / f"{change}"
        assert child(out, part=(1, 2), kill_at=change)["signal"] == signal.SIGKILL
        assert child(out, part=(2, 2))["error"] == ""
        assert child(out, part=(1, 2))["error"] == ""
        assert tree(out) == tree(tmp_path / "alone"), change


def test_a_part_of_a_complete_store_has_nothing_to_do(tmp_path: Path) -> None:
    embed_all(source(), tmp_path / "out")
    before = tree(tmp_path / "out")
    again = source()
    _, manifest = embed_all(again, tmp_path / "out", part=(2, 3))
    assert manifest is not None
    assert again.opened == []
    assert tree(tmp_path / "out") == before


def test_one_process_may_finish_what_parts_began(tmp_path: Path) -> None:
    embed_all(source(), tmp_path / "alone")
    embed_all(source(), tmp_path / "out", part=(2, 3))
    report, manifest = embed_all(source(), tmp_path / "out")
    assert manifest is not None
    assert report.kept == 8
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")


def test_parts_must_agree(tmp_path: Path) -> None:
    embed_all(source(), tmp_path / "out", part=(1, 2))
    with pytest.raises(OutputExistsError, match=r"started with other settings \(dtype: float32, now int8\)"):
        embed_all(source(), tmp_path / "out", part=(2, 2), dtype="int8")


def test_parts_take_the_batch_size_of_the_first(tmp_path: Path) -> None:
    """Some engines' last bits depend on it."""
    sizes: list[int] = []

    def run(pixels: Any) -> dict[str, Any]:
        sizes.append(len(pixels))
        return engine(pixels)

    embed_all(source(), tmp_path / "out", part=(1, 2), batch=3)
    embed_all(source(), tmp_path / "out", part=(2, 2), batch=1, engine=embedder(run))
    assert max(sizes) == 3


def test_parts_do_not_overwrite(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="--overwrite would remove what the other parts write"):
        embed_all(source(), tmp_path / "out", part=(2, 3), overwrite=True)
