"""Run the GPU checks in the order of their value, each with its own time limit and record.

    make gpu-check        parity: does every engine give the model's numbers?
    make gpu-bench        speed against torch.compile
    python benchmarks/gpu_steps.py check --seconds 600 --bundles /tmp/bundles

A step that takes too long, fails or crashes does not stop the next one; the scripts save a record after every
row, so what a step has measured is kept. `gpu_steps_<gpu>_<month>.json` lists how each step ended. When the
seconds of `--seconds` are used up, what is left is recorded as not run. Without a GPU: one line, exit code 0.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_check import environment
from gpu_shared import gpu_or_exit, new_gpu_record
from shared import LEDGER, make_parser, save

from dinodeploy.bench.ledger import record_name

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Step:
    """One command: what it settles, its arguments after the interpreter, and the most seconds it may take."""

    name: str
    settles: str
    command: tuple[str, ...]
    seconds: int
    makes_record: bool = True


def _script(name: str, **options: str) -> tuple[str, ...]:
    return (str(HERE / name), *(word for key, value in options.items() for word in (f"--{key}", value)))


STEPS: dict[str, tuple[Step, ...]] = {
    "check": (
        Step("doctor", "what is installed and starts", ("-m", "dinodeploy.cli.app", "doctor"), 60, False),
        Step(
            "tiny",
            "every backend and recipe builds, runs and is right",
            _script("gpu_check.py", models="tiny,tiny_swiglu"),
            150,
        ),
        Step(
            "fused_attention",
            "16-bit attention of a released model",
            _script("gpu_check.py", models="vit_base", recipes="fp16,bf16"),
            150,
        ),
        Step(
            "outliers",
            "massive activations in 16 and 8 bits",
            _script("gpu_check.py", models="planted_base", recipes="fp16,bf16,int8,fp8"),
            240,
        ),
        Step(
            "others",
            "other widths",
            _script("gpu_check.py", models="vit_small,planted_small,vit_base", recipes="fp32,fp16,int8,fp8"),
            400,
        ),
    ),
    "bench": (
        Step(
            "base",
            "the bar: torch.compile, and plans against it",
            _script("gpu_bench.py", models="vit_base", recipes="bf16", rounds="20"),
            300,
        ),
        Step("fp16", "fp16", _script("gpu_bench.py", models="vit_base", recipes="fp16", rounds="20"), 240),
        Step(
            "eight_bits",
            "whether 8 bits pay",
            _script("gpu_bench.py", models="vit_base", recipes="int8,fp8", rounds="20"),
            300,
        ),
        Step(
            "others", "other widths", _script("gpu_bench.py", models="vit_large,vit_small", rounds="20"), 600
        ),
    ),
}


def main(arguments: list[str]) -> int:
    parser = make_parser(__doc__)
    parser.add_argument("what", choices=STEPS)
    parser.add_argument("--seconds", type=float, default=900.0, help="for all steps together")
    parser.add_argument("--bundles", type=Path, help="use and keep bundles here")
    parser.add_argument("--out", type=Path, help="folder of the records; default: benchmarks/ledger/")
    options = parser.parse_args(arguments)
    gpu = gpu_or_exit(f"gpu-{options.what}")
    folder = options.out or LEDGER
    name = f"gpu_steps_{options.what}"
    record = new_gpu_record("gpu_steps", gpu, arguments)
    for row in run_steps(STEPS[options.what], options, folder, gpu.name):
        record["rows"].append(row)
        save(record, out=folder / record_name(name, machine=gpu.name))
        print(f"{row['step']:16} {row['ended']:12} {row['seconds']:6.1f} s  {row['settles']}", flush=True)
    return 1 if any(row["ended"] == "failed" for row in record["rows"]) else 0


def run_steps(
    steps: Sequence[Step],
    options: argparse.Namespace,
    folder: Path,
    machine: str,
    run: Callable[..., Any] = subprocess.run,
) -> Any:
    """A row for each step, in order."""
    started = time.monotonic()
    for step in steps:
        left = options.seconds - (time.monotonic() - started)
        row = {"step": step.name, "settles": step.settles, "limit": step.seconds}
        if left < min(step.seconds, 30):
            yield {**row, "ended": "not run", "seconds": 0.0}
            continue
        command = [sys.executable, *step.command]
        if step.makes_record:
            command += ["--out", str(folder / record_name(f"gpu_{step.name}", machine=machine))]
            if options.bundles is not None:
                command += ["--bundles", str(options.bundles)]
        began = time.monotonic()
        try:
            ran = run(command, check=False, timeout=min(step.seconds, left), env=environment())
            ended = "done" if ran.returncode == 0 else "failed"
        except subprocess.TimeoutExpired:
            ended = "out of time"
        yield {**row, "ended": ended, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
