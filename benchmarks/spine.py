"""What the way from checkpoint to embedding costs on this CPU, in one run, beside plain torch.

    make bench                                        # vit_small
    .venv/bin/python benchmarks/spine.py --arch vit_base --rounds 15

Measures export (time, peak memory of the process), cold start of `dinodeploy embed` with one picture, and
latency of ONNX Runtime against the reference in torch, interleaved, medians and 95th percentiles, with the
error beside each. Writes benchmarks/ledger/spine_<arch>_<cpu>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dinodeploy import Embedder
from dinodeploy.machine import cpu_name
from dinov3_ref.checkpoints import build_model, random_checkpoint
from exporters.golden import load_photo

LEDGER = Path(__file__).parent / "ledger"
SHAPES = ((1, 224, 224), (8, 224, 224), (1, 512, 512))
PACKAGES = ("torch", "onnx", "onnxruntime", "numpy", "pillow")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        record: dict[str, Any] = {
            "command": " ".join(["benchmarks/spine.py", *sys.argv[1:]]),
            "date": datetime.now(timezone.utc).date().isoformat(),
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "versions": {package: version(package) for package in PACKAGES},
            "arch": options.arch,
            "weights": "random, seed 0",
            "export": measure_export(options.arch, bundle),
            "cold_start": measure_cold_start(bundle, Path(folder)),
            "latency": measure_latency(options.arch, bundle, options.rounds),
        }
    LEDGER.mkdir(exist_ok=True)
    cpu = re.sub(r"[^a-z0-9]+", "-", cpu_name().partition("[")[0].lower()).strip("-")
    path = LEDGER / f"spine_{options.arch}_{cpu}_{datetime.now(timezone.utc):%Y%m}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    show(record)
    print(f"written: {path}")


def measure_export(arch: str, bundle: Path) -> dict[str, float]:
    """Seconds and peak memory of the whole command, in a process of its own."""
    command = ["export", "--arch", arch, "--weights", "random", "--out", str(bundle)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    seconds = run_command(command)
    peak = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return {
        "seconds": seconds,
        "peak_gib": peak / 2**20,
        "model_gib": (bundle / "model.onnx").stat().st_size / 2**30,
    }


def measure_cold_start(bundle: Path, folder: Path) -> dict[str, float]:
    """Median seconds of `dinodeploy embed` with one photograph, from process start to its end."""
    Image.fromarray(load_photo("chelsea")).save(folder / "photo.jpg")
    command = [
        "embed",
        str(folder / "photo.jpg"),
        "--engine",
        str(bundle),
        "--out",
        str(folder / "out"),
        "--overwrite",
    ]
    run_command(command)
    return {"seconds": float(np.median([run_command(command) for _ in range(5)]))}


def run_command(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dinodeploy.cli.app", *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def measure_latency(arch: str, bundle: Path, rounds: int) -> list[dict[str, Any]]:
    """ONNX Runtime and torch in turn, the same pixels and weights."""
    model = build_model(random_checkpoint(arch))
    rows = []
    with Embedder.open(bundle) as embedder, torch.inference_mode():
        for batch, height, width in SHAPES:
            preprocess = embedder.preprocess_for((height, width))
            one = preprocess(Image.fromarray(load_photo("coffee")))
            pixels = np.repeat(one[None], batch, axis=0)
            tensor = torch.from_numpy(pixels)
            runners: dict[str, Callable[[], Any]] = {
                "dinodeploy": lambda x=pixels: embedder.run(x),
                "torch": lambda x=tensor: model(x, is_training=True),
            }
            wanted = runners["torch"]()["x_norm_clstoken"].numpy()
            error = np.linalg.norm(runners["dinodeploy"]()["cls"] - wanted) / np.linalg.norm(wanted)
            rows.append({"batch": batch, "height": height, "width": width, **interleave(runners, rounds)})
            rows[-1]["relative_frobenius"] = float(error)
    return rows


def interleave(runners: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Milliseconds of each, taken in turn so that a drifting machine treats all alike."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for runner in runners.values():
        runner()
    for _ in range(rounds):
        for name, runner in runners.items():
            started = time.perf_counter()
            runner()
            times[name].append(1e3 * (time.perf_counter() - started))
    result: dict[str, Any] = {
        name: {"median_ms": float(np.median(values)), "p95_ms": float(np.percentile(values, 95))}
        for name, values in times.items()
    }
    ratios = np.array(times["torch"]) / np.array(times["dinodeploy"])
    result["torch_over_dinodeploy"] = float(np.median(ratios))
    return result


def show(record: dict[str, Any]) -> None:
    export, start = record["export"], record["cold_start"]
    print(f"{record['arch']} on {record['cpu']}, {record['threads']} threads")
    peak, size = export["peak_gib"], export["model_gib"]
    print(f"export {export['seconds']:.1f} s, peak {peak:.2f} GiB (model {size:.2f} GiB)")
    print(f"cold start of embed, one picture: {start['seconds']:.2f} s")
    for row in record["latency"]:
        ours, theirs = row["dinodeploy"], row["torch"]
        print(
            f"batch {row['batch']} {row['height']}x{row['width']}: {ours['median_ms']:.1f} ms "
            f"(p95 {ours['p95_ms']:.1f}), torch {theirs['median_ms']:.1f} ms, ratio "
            f"{row['torch_over_dinodeploy']:.2f}, error {row['relative_frobenius']:.1e}"
        )


if __name__ == "__main__":
    main()
