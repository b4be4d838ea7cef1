"""Leftovers of killed processes are removed; what a running process writes is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dinodeploy.files.unfinished.held import hold, release, remove, remove_abandoned

HOLDS = """
import sys
from pathlib import Path
from dinodeploy.files.unfinished.held import hold
held = [hold(Path(name)) for name in sys.argv[1:]]
print("ready", flush=True)
sys.stdin.read()
"""


def make(folder: Path) -> list[Path]:
    (folder / "folder" / "sub").mkdir(parents=True)
    (folder / "folder" / "sub" / "file").touch()
    (folder / "file").touch()
    return [folder / "folder", folder / "file"]


def test_what_a_running_process_holds_stays(tmp_path: Path) -> None:
    made = make(tmp_path)
    command = [sys.executable, "-c", HOLDS, *map(str, made)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        remove_abandoned(made)
        assert all(path.exists() for path in made)
        process.kill()
    remove_abandoned(made)
    assert not any(path.exists() for path in made)


def test_released_is_abandoned(tmp_path: Path) -> None:
    made = make(tmp_path)
    held = [hold(path) for path in made]
    remove_abandoned(made)
    assert all(path.exists() for path in made)
    for one in held:
        assert one is not None
        release(one)
    remove_abandoned([*made, tmp_path / "absent"])
    assert list(tmp_path.iterdir()) == []


def test_links_and_fifos_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    (tmp_path / "link").symlink_to("precious")
    remove_abandoned([tmp_path / "link"])
    assert (tmp_path / "precious").exists()
    os.mkfifo(tmp_path / "fifo")
    remove_abandoned([tmp_path / "fifo"])  # does not block


def test_taken_by_another_process_meanwhile(tmp_path: Path) -> None:
    """Between making a file and holding it, another process may find it abandoned."""
    path = tmp_path / "x"
    assert hold(path) is None
    path.touch()
    held = hold(path)
    assert hold(path) is None
    assert held is not None
    release(held)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinodeploy.files.unfinished.held.lock", lambda descriptor: False)
    made = make(tmp_path)
    remove_abandoned(made)
    assert all(path.exists() for path in made)
    held = hold(made[0])
    assert held is not None
    release(held)


def test_remove(tmp_path: Path) -> None:
    for path in make(tmp_path):
        remove(path)
        remove(path)
    (tmp_path / "link").symlink_to(tmp_path)
    remove(tmp_path / "link")
    assert list(tmp_path.iterdir()) == []
