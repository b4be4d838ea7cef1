"""The commands of model.pyz, with only numpy, Pillow, onnxruntime and safetensors installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import load_embeddings
from tests.support.images.photographs import photograph
from tests.support.processes.device import run_on_device


@pytest.mark.slow
def test_the_commands_without_any_other_package(application: Path, device: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("chelsea", "coffee"):
        photograph(name).save(tmp_path / "photos" / f"{name}.jpg")
    home = tmp_path / "home"
    home.mkdir()
    ran = run_on_device(device, home, tmp_path, "-c", "import dinodeploy")
    assert "ModuleNotFoundError" in ran.stderr  # else the test proves nothing
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


@pytest.mark.slow
def test_without_a_runtime_embed_exits_with_4_and_inspect_works(
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


@pytest.mark.slow
def test_mistakes_are_one_error_line(application: Path, device: Path, tmp_path: Path) -> None:
    ran = run_on_device(device, tmp_path, tmp_path, application, "embed", "none.jpg", "--out", "out")
    assert (ran.returncode, len(ran.stderr.strip().splitlines())) == (2, 1)
    assert "none.jpg" in ran.stderr
    ran = run_on_device(device, tmp_path, tmp_path, application, "embed", "x", "--no-such-option")
    assert (ran.returncode, len(ran.stderr.strip().splitlines())) == (2, 1)
    ran = run_on_device(device, tmp_path, tmp_path, application, "--version")
    assert ran.stdout.startswith("dinodeploy ")


@pytest.mark.slow
def test_a_damaged_cache_is_unpacked_again_and_a_missing_home_is_allowed(
    application: Path, device: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert run_on_device(device, home, tmp_path, application, "inspect").returncode == 0
    (model,) = (home / ".cache").rglob("model.onnx")
    model.write_bytes(model.read_bytes()[:-1])
    assert run_on_device(device, home, tmp_path, application, "inspect").returncode == 0
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the same size, another hash
    ran = run_on_device(device, home, tmp_path, application, "check")
    assert ran.returncode == 2
    assert "not the file that was exported" in ran.stderr
    ran = run_on_device(device, Path("/proc/no-home"), tmp_path, application, "inspect", "--json")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_where_everything_is_installed(signed_application: tuple[Path, Path], tmp_path: Path) -> None:
    """torch and model-signing read the metadata of every package that Python finds, this file's too."""
    application, key = signed_application
    photograph("coffee").save(tmp_path / "coffee.jpg")
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    importing = (
        "import runpy, sys, torch, model_signing; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    )
    for how in ([], ["-c", importing]):
        for command in (
            ["check"],
            ["inspect"],
            ["doctor"],
            ["embed", "coffee.jpg", "--out", "o", "--overwrite"],
        ):
            words = [sys.executable, *how, str(application), *command, "--require-signature", str(key)]
            ran = subprocess.run(
                words, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
            )
            assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_a_required_signature_is_enforced(
    application: Path, signed_application: tuple[Path, Path], tmp_path: Path
) -> None:
    """Every command; an unsigned bundle of the same digest in the cache changes nothing."""
    signed, key = signed_application
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}

    def run(file: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(file), *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            check=False,
        )

    assert run(application, "inspect").returncode == 0
    for command in (["check"], ["inspect"], ["doctor"], ["embed", "x.jpg"]):
        ran = run(application, *command, "--require-signature", str(key))
        assert (ran.returncode, "is not signed" in ran.stderr, ran.stderr.count("\n")) == (2, True, 1), (
            ran.stderr
        )
    assert run(signed, "check", "--require-signature", str(key)).returncode == 0
    (data,) = (tmp_path / "home/.cache/dinodeploy/standalone").glob("*-*/model.onnx.data")
    data.write_bytes(b"evil" + data.read_bytes()[4:])
    ran = run(signed, "check", "--require-signature", str(key))
    assert (ran.returncode, "not the file that was signed" in ran.stderr) == (2, True), ran.stderr


def _pythons() -> list[Path]:
    """The Pythons at hand, oldest first: on PATH and of pyenv."""
    found = {}
    homes = [Path(name) for name in os.environ["PATH"].split(os.pathsep)]
    homes += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    for path in (
        home / f"python{version}" for home in homes for version in ("2.7", *(f"3.{n}" for n in range(6, 20)))
    ):
        ran = path.is_file() and subprocess.run(
            [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if ran and ran.returncode == 0:
            major, minor = map(int, ran.stdout.split("."))
            found.setdefault((major, minor), path)
    return [found[version] for version in sorted(found)]


@pytest.mark.slow
def test_the_oldest_python_at_hand(application: Path, tmp_path: Path) -> None:
    """Too old: one line. Old enough: every module compiles, and `check` runs if the packages are there."""
    compiling = (
        "import sys, zipfile\n"
        "archive = zipfile.ZipFile(sys.argv[1])\n"
        "for name in archive.namelist():\n"
        "    if name.endswith('.py'): compile(archive.read(name), name, 'exec', dont_inherit=True)\n"
    )
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, words)), capture_output=True, text=True, env=environment, check=False
        )

    supported = None
    for python in _pythons():
        if run(python, "-c", "import sys; sys.exit(sys.version_info < (3, 10))").returncode:
            ran = run(python, application, "check")
            assert (ran.returncode, ran.stderr.count("\n")) == (4, 1), ran.stderr
            assert "needs Python 3.10 or newer" in ran.stderr
        else:
            supported = supported or python
    assert supported is not None
    assert run(supported, "-c", compiling, application).stderr == ""
    lacking = run(supported, "-c", "import numpy, PIL, safetensors, onnxruntime").returncode
    ran = run(supported, application, "check")
    assert (ran.returncode, "Traceback" in ran.stderr) == (4 if lacking else 0, False), ran.stderr
