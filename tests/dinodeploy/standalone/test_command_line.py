"""The commands of model.pyz, with only numpy, Pillow, onnxruntime and safetensors installed."""

from __future__ import annotations

import json
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
