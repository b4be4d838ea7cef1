"""The entry point: missing packages and an old Python are one error line."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

import pytest

from dinodeploy.standalone import start


@pytest.mark.parametrize(
    ("there", "lacking"),
    [
        ((), "it needs numpy and pillow and safetensors; "),
        (("numpy", "safetensors"), "it needs pillow; "),
    ],
)
def test_missing_packages_are_one_error_line(
    application: Path, device: Path, tmp_path: Path, there: tuple[str, ...], lacking: str
) -> None:
    """In a new environment without any package."""
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


def test_nothing_is_missing_here() -> None:
    assert start.missing(start.NEEDED) == ""
