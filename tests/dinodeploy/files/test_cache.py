"""Where the cache is, and what happens where there can be none."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dinodeploy.files.cache import cache_dir
from tests.support.processes.kill_runner import ROOT

EMBED = """
import os, sys, tempfile
from pathlib import Path

if "no home" in sys.argv:
    def home():
        raise RuntimeError("Could not determine home directory.")
    Path.home = home
if "no temporary folder" in sys.argv:
    tempfile._candidate_tempdir_list = lambda: ["/dev/null/none"]
import dinodeploy
with dinodeploy.Embedder.open(sys.argv[1], device=sys.argv[2]) as embedder:
    embedder.encode(sys.argv[3])
"""
PHOTO = ROOT / "exporters/photos/chelsea.jpg"


def test_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir("a") == tmp_path / "xdg/dinodeploy/a"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir("a") == tmp_path / ".cache/dinodeploy/a"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reason", ["a file is in the way", "a read-only disk"])
def test_a_place_that_cannot_be_written_is_replaced_for_this_process(
    reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if reason == "a file is in the way":
        monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/none")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    folder = cache_dir("a")
    folder.mkdir(parents=True, exist_ok=True)
    assert folder.is_relative_to(tempfile.gettempdir())
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700, "receipts of others would be trusted"
    assert cache_dir("b").parent == folder.parent


def test_a_cache_that_can_only_be_read_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dinodeploy/a").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cache_dir("a") == tmp_path / "dinodeploy/a"


@pytest.mark.parametrize("device", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("judged", [True, False], ids=["judged", "not judged"])
def test_an_engine_opens_without_a_home_and_without_a_temporary_folder(
    device: str, judged: bool, own_bundle: Path, tmp_path: Path
) -> None:
    """As in a container with a read-only root; the system is said once to have no place for a cache."""
    if not judged:
        (own_bundle / "parity.json").unlink()
    (tmp_path / "nothing").mkdir()
    environment = {name: os.environ[name] for name in ("PATH",)} | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-B", "-c", EMBED, str(own_bundle), device, str(PHOTO)]
    command += ["no home", "no temporary folder"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cache") <= 2, done.stderr
    assert done.stderr.count("\n") <= 1, done.stderr


@pytest.mark.skipif(not shutil.which("setpriv") or os.name == "nt" or os.getuid() != 0, reason="needs root")
def test_a_user_without_an_entry_in_the_list_of_users(tiny_bundle: Path, tmp_path: Path) -> None:
    """`docker run --user 12345`, a bundle and a disk that it can only read."""
    shared = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(tiny_bundle, shared / "bundle")
        for path in (shared, *shared.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        user = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
        command = [*user, sys.executable, "-B", "-m", "dinodeploy", "check", str(shared / "bundle")]
        can = subprocess.run(
            [*user, sys.executable, "-c", "import dinodeploy"],
            env=environment,
            check=False,
            capture_output=True,
        )
        if can.returncode:
            pytest.skip("another user cannot read this Python")
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd="/")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("no cache directory") == 1
    finally:
        shutil.rmtree(shared)
