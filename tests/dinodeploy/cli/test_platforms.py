"""The runtime's commands where the system, the file system, Python or the terminal is another one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import load_embeddings
from dinodeploy.cli import COMMANDS
from tests.support.processes.kill_runner import ROOT

PHOTOS = ROOT / "exporters/photos"
SUPPORT = ROOT / "tests/support"
# In this order: later ones read what earlier ones wrote. OUT, ARCHIVE … are paths.
STEPS: dict[str, tuple[str, ...]] = {
    "embed": ("embed", "PHOTOS", "--engine", "BUNDLE", "--out", "OUT"),
    "embed again": ("embed", "PHOTOS", "--engine", "BUNDLE", "--out", "OUT"),
    "embed with --overwrite": ("embed", "PHOTOS", "--engine", "BUNDLE", "--out", "OUT", "--overwrite"),
    "index": ("index", "OUT"),
    "index with --overwrite": ("index", "OUT", "--overwrite"),
    "search": ("search", "OUT", "--image", "PHOTO", "--engine", "BUNDLE", "--json"),
    "dedupe": ("dedupe", "OUT"),
    "check": ("check", "BUNDLE"),
    "inspect": ("inspect", "BUNDLE"),
    "doctor": ("doctor", "BUNDLE"),
    "pack": ("bundle", "pack", "BUNDLE", "--out", "ARCHIVE"),
    "unpack": ("bundle", "unpack", "ARCHIVE", "--out", "UNPACKED"),
    "unpack with --overwrite": ("bundle", "unpack", "ARCHIVE", "--out", "UNPACKED", "--overwrite"),
    "visualize": ("visualize", "PHOTO", "--engine", "BUNDLE", "--out", "MAPS"),
    "visualize with --overwrite": (
        "visualize",
        "PHOTO",
        "--engine",
        "BUNDLE",
        "--out",
        "MAPS",
        "--overwrite",
    ),
}
FAST = ("embed", "index", "pack", "unpack with --overwrite")
WRITE = ("embed", "embed again", "index", "index with --overwrite", *FAST[2:], "visualize")


def run_step(
    folder: Path, bundle: Path, step: tuple[str, ...], hook: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    places = {
        "PHOTOS": PHOTOS, "PHOTO": PHOTOS / "chelsea.jpg", "BUNDLE": bundle, "OUT": folder / "out",
        "ARCHIVE": folder / "packed.zip", "UNPACKED": folder / "unpacked", "MAPS": folder / "maps",
    }  # fmt: skip
    command = [sys.executable, "-m", "dinodeploy", *(str(places.get(word, word)) for word in step)]
    path = os.pathsep.join(str(part) for part in (SUPPORT / hook, ROOT) if hook or part == ROOT)
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        check=False,
    )


def run_steps(folder: Path, bundle: Path, names: Iterable[str], hook: str, **environment: str) -> str:
    """Run steps of the table, each of which must succeed without a traceback. Returns all of stderr."""
    told = ""
    for name in names:
        done = run_step(folder, bundle, STEPS[name], hook, **environment)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), f"{name}: {done.stderr}"
        told += done.stderr
    return told


def left(folder: Path) -> list[str]:
    return sorted(
        p.name for p in folder.rglob(".*") if ".partial-" in p.name or ".old-" in p.name or p.name == ".embed"
    )


def test_windows_writes_and_reads(own_bundle: Path, tmp_path: Path) -> None:
    run_steps(tmp_path, own_bundle, FAST, "windows_sim")
    assert len(load_embeddings(tmp_path / "out")[0]) == len(list(PHOTOS.glob("*.jpg")))
    assert left(tmp_path) == []


@pytest.mark.slow
def test_windows_runs_every_command_of_the_runtime(own_bundle: Path, tmp_path: Path) -> None:
    run_steps(tmp_path, own_bundle, list(STEPS), "windows_sim")
    assert left(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_windows_prints_the_help_of_every_command(command: str, tiny_bundle: Path, tmp_path: Path) -> None:
    done = run_step(tmp_path, tiny_bundle, (command, "--help"), "windows_sim")
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout


def test_windows_lets_one_writer_in(own_bundle: Path, tmp_path: Path) -> None:
    """By byte-range locks of another process, which Windows has in place of flock."""
    program = (
        "import sys, time; from pathlib import Path; from dinodeploy.store.lock import StoreLock\n"
        "lock = StoreLock(Path(sys.argv[1]), (1, 1)); print('held', flush=True); time.sleep(60)"
    )
    path = os.pathsep.join((str(SUPPORT / "windows_sim"), str(ROOT)))
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        done = run_step(tmp_path, own_bundle, STEPS["embed"], "windows_sim")
        assert done.returncode == 2
        assert f"is being written by process {holder.pid}" in done.stderr
    finally:
        holder.kill()
        holder.communicate()


FAULTS = (  # "inodes" is worse than "ino0", which the fast test has
    *("dirsync", "nosync", "nolink", "noexec", "inodes"),
    *("flock-ENOLCK", "flock-ENOTSUP", "flock-ENOSYS", "flock-EINVAL"),
)


@pytest.mark.parametrize("fault", ["dirsync", "flock-ENOLCK", "ino0", "inodes"])
def test_a_file_system_without_a_feature(fault: str, own_bundle: Path, tmp_path: Path) -> None:
    told = run_steps(tmp_path, own_bundle, ["embed", "pack"], "fs_faults", FS_FAULT=fault)
    assert told.count("this file system cannot flush") == (2 if fault == "dirsync" else 0)  # one per process
    assert len(load_embeddings(tmp_path / "out")[0]) == len(list(PHOTOS.glob("*.jpg")))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_all_that_writes_on_a_file_system_without_a_feature(
    fault: str, own_bundle: Path, tmp_path: Path
) -> None:
    run_steps(tmp_path, own_bundle, WRITE, "fs_faults", FS_FAULT=fault)
    ids, vectors = load_embeddings(tmp_path / "out")
    (tmp_path / "whole").mkdir()
    run_steps(tmp_path / "whole", own_bundle, ["embed"], "")
    other_ids, others = load_embeddings(tmp_path / "whole/out")
    assert list(ids) == list(other_ids)
    np.testing.assert_array_equal(vectors, others)


@pytest.mark.parametrize(
    ("fault", "reason"), [("full", "the disk is full"), ("readonly", "Read-only file system")]
)
@pytest.mark.parametrize("step", ["embed", "pack"])
def test_a_disk_that_cannot_be_written_is_one_line(
    fault: str, reason: str, step: str, own_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    out = str(tmp_path / "work")
    done = run_step(tmp_path / "work", own_bundle, STEPS[step], "fs_faults", FS_FAULT=fault, FS_OUT=out)
    assert done.returncode in (2, 4), done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert len(lines) == 1, done.stderr
    assert reason in lines[0]
    assert list((tmp_path / "work").iterdir()) == []


ENCODINGS = ("ascii", "cp1252", "latin-1", "gbk", "utf-16", "cp437")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_command_under_a_foreign_encoding(encoding: str, own_bundle: Path, tmp_path: Path) -> None:
    shutil.copy(PHOTOS / "chelsea.jpg", tmp_path / "Käße 猫.jpg")
    steps = {**STEPS, "embed": ("embed", str(tmp_path), "--engine", "BUNDLE", "--out", "OUT")}
    for name in ("embed", "index", "search", "doctor"):
        done = run_step(
            tmp_path,
            own_bundle,
            steps[name],
            "",
            PYTHONIOENCODING=encoding,
            LC_ALL="C",
            PYTHONUTF8="0",
            PYTHONCOERCECLOCALE="0",
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), f"{name}: {done.stderr}"


@pytest.mark.slow
def test_every_command_with_an_empty_home(own_bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    run_steps(tmp_path, own_bundle, list(STEPS), "", HOME=str(home), XDG_CACHE_HOME="")
    ours = [path for path in home.rglob("*") if path.is_file() and "matplotlib" not in str(path)]
    assert [str(path) for path in ours if "dinodeploy" not in path.parts] == []
