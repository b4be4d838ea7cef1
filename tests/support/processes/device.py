"""Run a standalone file on a device that has only the packages of one folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_on_device(
    device: Path, home: Path, cwd: Path, *arguments: object
) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(device), "HOME": str(home), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-S", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
