"""`dinodeploy` in a process of its own: how long it took, and the most memory it held."""

from __future__ import annotations

import subprocess
import sys
import time

# Runs the command line and then says, on the last line of stdout, when it ended (the system's clock, the same
# in every process) and the most memory it held.
_PROGRAM = """
import sys, time
from dinodeploy.cli.app import main
sys.argv = ["dinodeploy", *sys.argv[1:]]
try:
    main()
finally:
    ended = time.perf_counter()
    from dinodeploy.bench.probe import peak_mib
    print(ended, peak_mib())
"""


def run_dinodeploy(arguments: list[str]) -> tuple[float, float | None]:
    """Seconds and peak MiB (None where the system does not tell). Raises CalledProcessError."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    ended, peak = done.stdout.splitlines()[-1].split()
    return float(ended) - started, None if peak == "None" else float(peak)
