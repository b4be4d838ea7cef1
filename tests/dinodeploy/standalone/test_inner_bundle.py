"""The bundle inside the file is unpacked once and verified."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.device import run_on_device


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
