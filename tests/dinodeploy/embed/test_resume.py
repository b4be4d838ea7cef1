"""Whatever stops a run, and whenever: the same command goes on, and ends in the same bytes."""

from __future__ import annotations

import errno
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinodeploy import BundleError, load_embeddings
from tests.cheap_embedding import MadeUp, embed_all, tree
from tests.children import BAD, PICTURES, Children

KILLS = 60


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    with Children() as children:
        yield children


@pytest.fixture(scope="module")
def undisturbed(child: Children, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert child(out)["code"] == 0
    ids, vectors = load_embeddings(out)
    assert ids == [f"{index:06d}.png" for index in range(PICTURES) if index not in BAD]
    assert [round((vector[0] + 1) / 2 * 255) for vector in vectors] == [int(id_[:6]) for id_ in ids]
    return tree(out)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of runs would wait for fsync otherwise."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="dinodeploy_", dir=memory) as folder:
        yield Path(folder)


def test_a_run_killed_at_random_moments(
    child: Children, undisturbed: dict[str, bytes], disk: Path
) -> None:
    """kill -9 from outside, again and again, until a run comes through: nothing twice, nothing lost."""
    rng = random.Random(0)
    started = time.perf_counter()
    child(disk / "first")
    whole = time.perf_counter() - started
    kills = stores = 0
    while kills < KILLS:
        out = disk / f"{stores}"
        stores += 1
        while (ended := child(out, kill_after=rng.uniform(0, 1.2 * whole)))["signal"]:
            assert ended["signal"] == signal.SIGKILL
            kills += 1
        assert (ended["code"], ended["error"]) == (0, "")
        assert tree(out) == undisturbed


def test_a_run_killed_at_every_change_of_the_file_system(
    child: Children, undisturbed: dict[str, bytes], disk: Path
) -> None:
    changes = child(disk / "whole")["changes"]
    assert changes > 40, "the hooks see what is written"
    for change in range(1, changes + 1):
        out = disk / f"{change}"
        ended = child(out, kill_at=change)
        assert ended["signal"] == signal.SIGKILL, change
        assert child(out)["error"] == "", change
        assert tree(out) == undisturbed, change


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_disk_that_fails_at_any_moment(
    child: Children, undisturbed: dict[str, bytes], disk: Path, number: int
) -> None:
    """A full disk, permissions taken away, a broken disk: one line, and the rest is done when that is mended."""
    changes = child(disk / "whole")["changes"]
    for change in range(1, changes + 1, 2 if number == errno.ENOSPC else 9):
        out = disk / f"{change}"
        ended = child(out, fail_at=change, errno=number)
        if ended["code"]:  # what fails while tidying up at the end stops nobody
            assert ended["code"] in (2, 4), (change, ended)
            assert ended["error"].startswith(("UnavailableError: ", "MisuseError: ")), (change, ended)
            assert "\n" not in ended["error"]
        assert child(out)["error"] == "", change
        assert tree(out) == undisturbed, change
