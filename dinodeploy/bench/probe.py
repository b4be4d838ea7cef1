"""Start-up time and memory of one runner, in its own process: `python -m dinodeploy.bench.probe`.

Time runs from the start of the process to the first output. Memory is the peak resident size that the kernel
reports for this process (`getrusage` would include its parent's).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.bench.limits import fp32_gemm_peak
from dinodeploy.bench.runners import EngineRunner, RunnerOptions, open_runner
from dinodeploy.errors import DinodeployError, UnavailableError
from dinodeploy.files.json_file import parse_json

_STATUS = Path("/proc/self/status")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PEAK = "gemm"  # instead of a runner's name: measure the machine


@dataclass(frozen=True)
class Start:
    """Seconds from process start to the first output, and the peak memory until then."""

    seconds: float
    peak_mib: float | None  # None where the system does not report it


def probe_start(name: str, options: RunnerOptions, shape: tuple[int, int, int]) -> Start:
    """Open a runner in a new process and run it once at (B, H, W). Raises UnavailableError if it dies."""
    started = time.perf_counter()
    found = _in_process(options.threads, name, {"options": asdict(options), "shape": shape})
    return Start(found["ready"] - started, found["peak_mib"])


def probe_peak(threads: int) -> float:
    """GFLOP/s of this machine's best fp32 product with `threads` threads."""
    return float(_in_process(threads, PEAK, {"threads": threads})["gflop_per_second"])


def _in_process(threads: int, name: str, task: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "dinodeploy.bench.probe", name, json.dumps(task)]
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise UnavailableError(f"{name} does not start in its own process: {lines[-1]}")
    found: dict[str, Any] = parse_json(done.stdout.splitlines()[-1], f"what {name} prints", "report")
    return found


def peak_mib() -> float | None:
    """Peak memory of this process in MiB."""
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return None


def main(name: str, task: dict[str, Any]) -> dict[str, Any]:
    if name == PEAK:
        return {"gflop_per_second": fp32_gemm_peak(task["threads"])}
    options = dict(task["options"])
    options["outputs"] = None if options["outputs"] is None else tuple(options["outputs"])
    batch, height, width = task["shape"]
    runner = open_runner(name, RunnerOptions(**options), judged=False)
    if isinstance(runner, EngineRunner):
        runner.embedder.warm_up((height, width), batch_size=batch)
    else:
        runner.run(np.zeros((batch, 3, height, width), np.float32))
    # perf_counter is the system's monotonic clock, the same in every process
    return {"ready": time.perf_counter(), "peak_mib": peak_mib()}


if __name__ == "__main__":
    try:
        print(json.dumps(main(sys.argv[1], parse_json(sys.argv[2], "the task", "small"))))
    except DinodeployError as error:
        sys.exit(str(error))
