"""A directory is replaced in one step, or found again after a crash; leftovers go with the next write."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinodeploy.files import atomic
from dinodeploy.files.atomic import atomic_directory, atomic_file
from dinodeploy.files.unfinished import exchange as exchanges
from dinodeploy.files.unfinished.exchange import displace, exchange, remove_leftovers, restore
from dinodeploy.files.unfinished.held import release

REPLACES = """
import itertools, os, signal, sys
from pathlib import Path
from dinodeploy.files import atomic
target, how = Path(sys.argv[1]), sys.argv[2]
if how != "exchange":
    atomic.exchange = lambda one, other: False
if how == "between":
    real, calls = atomic.replace, itertools.count()
    atomic.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
print("ready", flush=True)
for number in itertools.count():
    with atomic.atomic_directory(target) as partial:
        for name in "abc":
            (partial / name).write_text(str(number))
"""


def make(target: Path) -> None:
    target.mkdir()
    for name in "abc":
        (target / name).write_text("first")


def whole(target: Path) -> bool:
    return len({(target / name).read_text() for name in "abc"}) == 1


def start(target: Path, how: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", REPLACES, str(target), how], stdout=subprocess.PIPE, env=dict(os.environ)
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def test_two_names_are_exchanged(tmp_path: Path) -> None:
    make(tmp_path / "x")
    (tmp_path / "y").write_text("y")
    if not exchange(tmp_path / "x", tmp_path / "y"):
        pytest.skip("this file system cannot exchange names")
    assert (tmp_path / "x").read_text() == "y"
    assert whole(tmp_path / "y")
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "x", tmp_path / "absent")


@pytest.mark.parametrize("how", ["exchange", "rename"])
def test_killed_at_any_moment(how: str, tmp_path: Path) -> None:
    target, rng = tmp_path / "out", random.Random(5)
    make(target)
    for _ in range(6):
        process = start(target, how)
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if how == "exchange":
            assert whole(target)  # at every moment
        restore(target)
        assert whole(target)
    with atomic_directory(target) as partial:
        (partial / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_killed_between_two_renames(tmp_path: Path) -> None:
    target = tmp_path / "out"
    make(target)
    start(target, "between").wait()
    assert not target.exists()
    restore(target)
    assert whole(target)
    remove_leftovers(target)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_running_process_displaced_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "out")
    old, held = displace(tmp_path / "out")
    restore(tmp_path / "out")
    assert whole(old)
    release(held)
    restore(tmp_path / "out")
    assert whole(tmp_path / "out")


def test_the_only_copy_is_no_leftover(tmp_path: Path) -> None:
    make(tmp_path / "out")
    old, held = displace(tmp_path / "out")
    release(held)
    remove_leftovers(tmp_path / "out")
    assert whole(old)


def test_other_names_are_no_leftovers(tmp_path: Path) -> None:
    digits = "0" * 16
    others = [f".other.partial-{digits}", f".f.partial-{digits}x", ".f.partial-1", f"f.partial-{digits}"]
    others += [f".f.g.partial-{digits}", f".f.older-{digits}", f"..f.partial-{digits}"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / f".f.partial-{digits}").touch()
    (tmp_path / f".f.partial-{digits}.mp4").touch()
    with atomic_file(tmp_path / "f") as file:
        file.write(b"x")
    assert {path.name for path in tmp_path.iterdir()} == {*others, "f"}


def test_nothing_to_restore(tmp_path: Path) -> None:
    restore(tmp_path / "absent")
    restore(tmp_path / "no" / "folder")
    restore(Path())
    remove_leftovers(tmp_path / "no" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_second_rename_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, real = tmp_path / "out", atomic.replace
    make(target)
    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)

    def fail(source: Path, name: Path) -> None:
        if ".partial-" in source.name:
            raise PermissionError(13, "Permission denied")
        real(source, name)

    monkeypatch.setattr(atomic, "replace", fail)
    with pytest.raises(PermissionError), atomic_directory(target) as partial:
        (partial / "a").write_text("new")
    assert whole(target)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_systems_that_cannot_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def renameat2(self, *arguments: object) -> int:
            return -1

    make(tmp_path / "out")
    monkeypatch.setattr(exchanges.ctypes, "CDLL", lambda *a, **k: Library())
    monkeypatch.setattr(exchanges.ctypes, "get_errno", lambda: 22)
    assert not exchange(tmp_path / "out", tmp_path / "x")
    monkeypatch.setattr(exchanges.ctypes, "CDLL", lambda *a, **k: object())
    assert not exchange(tmp_path / "out", tmp_path / "x")
    with atomic_directory(tmp_path / "out") as partial:
        (partial / "new").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
