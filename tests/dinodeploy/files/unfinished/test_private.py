"""A private folder lives as long as what refers to it, and no longer than its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dinodeploy.errors import UnavailableError
from dinodeploy.files.unfinished.private import PrivateFolder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_private_and_gone_with_its_owner(place: Path) -> None:
    folder = PrivateFolder("a test")
    (folder.path / "file").touch()
    assert folder.path.parent == place
    assert folder.path.stat().st_mode & 0o777 == 0o700
    PrivateFolder("another").remove()
    assert list(place.iterdir()) == [folder.path]
    del folder
    assert list(place.iterdir()) == []


def test_removed_at_exit_and_not_by_a_fork(place: Path) -> None:
    code = """
import os
from dinodeploy.files.unfinished.private import PrivateFolder
folder = PrivateFolder("a test")
if os.fork() == 0:
    folder.remove()
    raise SystemExit
os.wait()
print(folder.path.is_dir())
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "True\n"
    assert list(place.iterdir()) == []


def test_the_next_one_removes_what_a_killed_process_left(place: Path) -> None:
    code = """
from dinodeploy.files.unfinished.private import PrivateFolder
folder = PrivateFolder("a test")
print("ready", flush=True)
input()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(place)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        PrivateFolder("a test").remove()
        assert len(list(place.iterdir())) == 1  # it runs
        process.send_signal(signal.SIGKILL)
    PrivateFolder("a test").remove()
    assert list(place.iterdir()) == []


def test_no_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(UnavailableError, match=r"no temporary folder for a test: .*set TMPDIR"):
        PrivateFolder("a test")
