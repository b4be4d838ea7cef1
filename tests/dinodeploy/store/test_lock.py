"""One process at a time, or one a part; the dead hold nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dinodeploy import MisuseError
from dinodeploy.store.lock import StoreLock
from tests.support.processes.kill_runner import ROOT

HOLDER = """
import sys, time
from pathlib import Path
from dinodeploy.store.lock import StoreLock
lock = StoreLock(Path(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3])))
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def holder(out: Path, part: tuple[int, int] = (1, 1)) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a part of `out`, until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out), *map(str, part)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_second_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(MisuseError) as caught:
            StoreLock(tmp_path, (1, 1))
        who = f"process {process.pid} on {socket.gethostname()}"
        assert f"it is being written by {who}; wait for it to finish" in str(caught.value)
        with pytest.raises(MisuseError, match=r"part 1/2, or the whole store, is being written by process"):
            StoreLock(tmp_path, (1, 2))


def test_the_dead_hold_nothing(tmp_path: Path) -> None:
    """Their file stays behind, with their number in it."""
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert str(process.pid) in (tmp_path / ".embed/part-1-of-1").read_text()
        StoreLock(tmp_path, (1, 1)).release()


def test_parts_work_side_by_side(tmp_path: Path) -> None:
    with holder(tmp_path, (1, 2)):
        other = StoreLock(tmp_path, (2, 2))
        for part in ((1, 2), (1, 1)):
            with pytest.raises(MisuseError, match="is being written by process"):
                StoreLock(tmp_path, part)
        other.release()


def test_a_lock_that_was_tidied_away_is_taken_anew(tmp_path: Path) -> None:
    """Between opening and locking, the previous holder may have removed the folder."""
    import fcntl
    import shutil

    flock = fcntl.flock
    removed = False

    def remove_once(file: int, kind: int) -> None:
        nonlocal removed
        flock(file, kind)
        if not removed:
            removed = True
            shutil.rmtree(tmp_path / ".embed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", remove_once)
        lock = StoreLock(tmp_path, (1, 1))
    assert (tmp_path / ".embed/gate").exists()
    with pytest.raises(MisuseError):
        StoreLock(tmp_path, (1, 1))
    lock.release()


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def unsupported(file: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    StoreLock(tmp_path, (1, 1)).release()


def test_a_work_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """What it names would be cleared as the store's own."""
    (tmp_path / "elsewhere/shards").mkdir(parents=True)
    (tmp_path / "elsewhere/shards/00000.json").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.embed").symlink_to("../elsewhere")
    with pytest.raises(NotADirectoryError, match=r"its folder \.embed is a link"):
        StoreLock(tmp_path / "out", (1, 1))
    assert [path.name for path in (tmp_path / "elsewhere").rglob("*")] == ["shards", "00000.json"]
