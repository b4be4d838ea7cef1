"""An update may be killed at any moment, and two processes may write one store: nothing is lost."""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dinodeploy import load_embeddings
from tests.support.fake_engine import tree
from tests.support.followed import BAD, assert_same_rows
from tests.support.processes.kill_runner import Children

START = {f"{number:02d}.png": 1 for number in range(14)} | {"03.png": BAD}
NOW = {id_: 1 + (id_ in ("02.png", "11.png")) for id_ in START if id_ != "07.png"} | {
    "20.png": 1,
    "03.png": BAD,
}


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    with Children() as children:
        yield children


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="dinodeploy_", dir=memory) as folder:
        yield Path(folder)


def prepared(child: Children, disk: Path) -> None:
    assert child(disk / "start", versions=START)["error"] == ""
    shutil.copytree(disk / "start", disk / "whole", copy_function=shutil.copy2)
    assert child(disk / "whole", versions=NOW)["error"] == ""
    child(disk / "anew", versions=NOW)
    assert_same_rows(disk / "whole", disk / "anew")


def check_killed(child: Children, disk: Path, name: str, **how: float) -> int:
    """One killed update: the old store loads meanwhile, and the rerun equals an undisturbed one."""
    out = disk / name
    shutil.copytree(disk / "start", out, copy_function=shutil.copy2)
    ended = child(out, versions=NOW, **how)
    loaded = load_embeddings(out)[0]
    assert loaded in (load_embeddings(disk / "start")[0], load_embeddings(disk / "whole")[0])
    assert child(out, versions=NOW)["error"] == "", how
    assert tree(out) == tree(disk / "whole"), how
    shutil.rmtree(out)
    return int(ended["signal"] == signal.SIGKILL)


def test_an_update_killed_at_some_moments(child: Children, disk: Path) -> None:
    prepared(child, disk)
    for change in range(2, 90, 11):
        check_killed(child, disk, "out", kill_at=change)


@pytest.mark.slow
def test_an_update_killed_at_every_change_of_the_file_system(child: Children, disk: Path) -> None:
    prepared(child, disk)
    change = 1
    while check_killed(child, disk, "out", kill_at=change):
        change += 1
    assert change > 60, "the hooks see what is written"


@pytest.mark.slow
def test_an_update_killed_at_50_random_moments(child: Children, disk: Path) -> None:
    prepared(child, disk)
    rng = random.Random(0)
    shutil.copytree(disk / "start", disk / "timed", copy_function=shutil.copy2)
    started = time.perf_counter()
    child(disk / "timed", versions=NOW)
    whole = time.perf_counter() - started
    killed = 0
    while killed < 50:
        killed += check_killed(child, disk, "out", kill_after=rng.uniform(0, 1.1 * whole))


@pytest.mark.parametrize("what", ["first", "update"])
def test_two_writers_without_locks_lose_nothing(disk: Path, what: str) -> None:
    """Both end in the same bytes, or one of them says why it stopped; the next run completes the store."""
    versions = START if what == "first" else NOW
    with Children() as one, Children() as other:
        one(disk / "start", versions=START)
        shutil.copytree(disk / "start", disk / "whole", copy_function=shutil.copy2)
        one(disk / "whole", versions=versions)
        for attempt in range(12):
            out = disk / f"{attempt}"
            if what == "update":
                shutil.copytree(disk / "start", out, copy_function=shutil.copy2)

            def run(child: Children, out: Path = out) -> dict[str, object]:
                return child(out, versions=versions, no_locks=True)

            with ThreadPoolExecutor(2) as pool:
                ended = list(pool.map(run, (one, other)))
            assert any(end["code"] == 0 for end in ended), ended
            assert all(end["code"] in (0, 2, 4) for end in ended), ended
            load_embeddings(out)
            assert one(out, versions=versions, no_locks=True)["error"] == ""
            assert one(out, versions=versions)["error"] == ""
            assert tree(out) == tree(disk / "whole"), attempt
