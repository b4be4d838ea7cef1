"""The public API as a type checker sees it from somebody else's program: through py.typed alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SAMPLE = Path(__file__).parent / "typed_sample"


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `mypy --strict` says of both programs, in a folder of their own, where the package is installed.

    Installed means found on the path and typed by its py.typed: our own mypy settings are out of reach.
    """
    folder = tmp_path_factory.mktemp("app")
    for name in ("app.py", "wrong.py"):
        shutil.copy(SAMPLE / name, folder / name)
    site = folder / "site"
    shutil.copytree(ROOT / "dinodeploy", site / "dinodeploy", ignore=shutil.ignore_patterns("__pycache__"))
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-incremental",
            "--config-file=",
            "app.py",
            "wrong.py",
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        env={**os.environ, "MYPYPATH": "", "PYTHONPATH": str(site)},
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_a_program_that_uses_everything_public_is_accepted(checked: str) -> None:
    assert [line for line in checked.splitlines() if "wrong.py" not in line and ": error:" in line] == []


@pytest.mark.slow
def test_what_is_wrong_is_found_where_it_is(checked: str) -> None:
    """Else py.typed would be missing, and everything of ours anything at all."""
    found = set(re.findall(r"^wrong\.py:(\d+): error: .*\[([a-z-]+)\]$", checked, re.MULTILINE))
    lines = (SAMPLE / "wrong.py").read_text().splitlines()
    wanted = {(str(at), line.rpartition("# ")[2]) for at, line in enumerate(lines, 1) if "  # " in line}
    assert len(wanted) == 6
    assert wanted <= found, checked
