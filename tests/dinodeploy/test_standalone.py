"""model.pyz: the ordinary commands, where nothing but numpy, pillow and onnxruntime is installed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import load_embeddings
from dinodeploy.standalone import start
from dinodeploy.standalone.pack import pack_standalone
from tests.support.photographs import photograph

# What a device has: these distributions and what they import.
DEVICE = (
    "numpy",
    "pillow",
    "onnxruntime",
    "flatbuffers",
    "protobuf",
    "packaging",
    "coloredlogs",
    "sympy",
    "mpmath",
)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages, linked from this environment, and none besides."""
    folder = tmp_path_factory.mktemp("device")
    for name in DEVICE:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in distribution.files or () if ".." not in file.parts}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source)
    return folder


@pytest.fixture(scope="module")
def application(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_standalone(tiny_bundle, tmp_path_factory.mktemp("pyz") / "model.pyz")


def run_on_device(
    device: Path, home: Path, cwd: Path, *arguments: object
) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(device), "HOME": str(home), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-S", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


@pytest.mark.slow
def test_it_embeds_where_nothing_is_installed(application: Path, device: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("chelsea", "coffee"):
        photograph(name).save(tmp_path / "photos" / f"{name}.jpg")
    home = tmp_path / "home"
    home.mkdir()
    ran = run_on_device(device, home, tmp_path, "-c", "import dinodeploy")
    assert "ModuleNotFoundError" in ran.stderr  # else the test would prove nothing
    ran = run_on_device(device, home, tmp_path, application, "embed", "photos", "--out", "out", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["embedded"] == 2
    ids, vectors = load_embeddings(tmp_path / "out")
    assert ids == ["photos/chelsea.jpg", "photos/coffee.jpg"]
    assert np.isfinite(vectors).all()
    ran = run_on_device(device, home, tmp_path, application, "check")
    assert ran.returncode == 0, ran.stderr
    assert list((home / ".cache/dinodeploy/standalone").iterdir())
    ran = run_on_device(device, home, tmp_path, application, "doctor", "--json")
    found = json.loads(ran.stdout)
    assert (ran.returncode, found["fine"], found["devices"][0]["judged"]) == (0, True, True)
    assert found["packages"]["torch"]["version"] is None


@pytest.mark.parametrize(
    ("there", "lacking"),
    [
        ((), "it needs numpy and pillow; "),
        (("numpy",), "it needs pillow; "),
    ],
)
def test_what_is_missing_is_one_line(
    application: Path, device: Path, tmp_path: Path, there: tuple[str, ...], lacking: str
) -> None:
    """In an environment of its own, as bare as Python comes."""
    venv.create(tmp_path / "bare", with_pip=False)
    (site,) = (tmp_path / "bare").glob("lib/python*/site-packages")
    for name in there:
        for found in device.glob(f"{name}*"):
            (site / found.name).symlink_to(found.resolve())
    python = tmp_path / "bare" / "bin" / "python"
    for arguments in (("embed", "photos"), ("--version",)):
        command = [str(python), str(application), *arguments]
        environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert (ran.returncode, ran.stdout) == (4, ""), ran.stderr
        (line,) = ran.stderr.strip().splitlines()
        assert line.startswith("error: ")
        assert lacking in line
        assert f"{python} -m pip install" in line


@pytest.mark.slow
def test_without_a_runtime_only_what_runs_an_engine_ends_in_4(
    application: Path, device: Path, tmp_path: Path
) -> None:
    without = tmp_path / "without"
    without.mkdir()
    for found in device.iterdir():
        if not found.name.startswith("onnxruntime"):
            (without / found.name).symlink_to(found.resolve())
    photograph("coffee").save(tmp_path / "coffee.jpg")
    ran = run_on_device(without, tmp_path, tmp_path, application, "embed", "coffee.jpg", "--out", "out")
    assert (ran.returncode, len(ran.stderr.strip().splitlines())) == (4, 1), ran.stderr
    assert "pip install onnxruntime" in ran.stderr
    assert not (tmp_path / "out").exists()
    assert run_on_device(without, tmp_path, tmp_path, application, "inspect").returncode == 0


def test_an_old_python_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "OLDEST", (4, 0))
    with pytest.raises(SystemExit, match="4"):
        start.main()
    assert "it needs Python 4.0 or newer" in capsys.readouterr().err


@pytest.mark.slow
def test_mistakes_are_one_line_there_too(application: Path, device: Path, tmp_path: Path) -> None:
    ran = run_on_device(device, tmp_path, tmp_path, application, "embed", "none.jpg", "--out", "out")
    assert (ran.returncode, len(ran.stderr.strip().splitlines())) == (2, 1)
    assert "none.jpg" in ran.stderr
    ran = run_on_device(device, tmp_path, tmp_path, application, "embed", "x", "--no-such-option")
    assert (ran.returncode, len(ran.stderr.strip().splitlines())) == (2, 1)
    ran = run_on_device(device, tmp_path, tmp_path, application, "--version")
    assert ran.stdout.startswith("dinodeploy ")


@pytest.mark.slow
def test_a_damaged_cache_is_made_again_and_a_closed_home_is_no_matter(
    application: Path, device: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert run_on_device(device, home, tmp_path, application, "inspect").returncode == 0
    (model,) = (home / ".cache").rglob("model.onnx")
    model.write_bytes(model.read_bytes()[:-1])
    assert run_on_device(device, home, tmp_path, application, "inspect").returncode == 0
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the same size: the hash notices it
    ran = run_on_device(device, home, tmp_path, application, "check")
    assert ran.returncode == 2
    assert "not the file that was exported" in ran.stderr
    ran = run_on_device(device, Path("/proc/no-home"), tmp_path, application, "inspect", "--json")
    assert ran.returncode == 0, ran.stderr


def test_the_same_bundle_gives_the_same_file(application: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    assert pack_standalone(tiny_bundle, tmp_path / "again.pyz").read_bytes() == application.read_bytes()
    assert os.access(application, os.X_OK)
