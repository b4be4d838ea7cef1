"""Run Python in a process that has an empty home and no network names, and see what it did with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes.kill_runner import ROOT

HOOK = ROOT / "tests/support/no_network"
# Variables of a user or of a continuous integration that turn telemetry on or off.
_DECIDE = re.compile(
    r"TELEMETRY|USAGE_STATS|DO_NOT_TRACK|NNCF|UNIT_TESTS|^CI$|TF_BUILD|JENKINS|GITHUB_|XDG_|^HF_"
)
_AWAY = re.compile(r'connect\(\d+, .*(?:sin_addr=inet_addr\("(?!127\.)|inet_pton\(AF_INET6, "(?!::1))')


@dataclass(frozen=True)
class Alone:
    code: int
    output: str
    home: list[str]  # files under HOME
    looked_up: list[str]  # hosts, by Python's own resolver, and the addresses that native code connects to


def run_alone(folder: Path, *arguments: object, trace: bool = False, **environment: str) -> Alone:
    """Run `python ARGUMENTS`; `folder` holds its home. trace: also watch native code, where strace exists."""
    home, log, calls = folder / "home", folder / "looked_up", folder / "calls"
    home.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not _DECIDE.search(name)}
    path = os.pathsep.join((str(HOOK), str(ROOT)))
    own = {"HOME": str(home), "LOOKED_UP": str(log), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    if trace and shutil.which("strace"):
        command = ["strace", "-f", "-qq", "-e", "trace=connect", "-o", str(calls), *command]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**inherited, **own, **environment},
        cwd=folder,
        check=False,
    )
    looked_up = log.read_text().split() if log.exists() else []
    if calls.exists():
        looked_up += [line for line in calls.read_text(errors="replace").splitlines() if _AWAY.search(line)]
    files = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    return Alone(done.returncode, done.stdout + done.stderr, files, looked_up)
