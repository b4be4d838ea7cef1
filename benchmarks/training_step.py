"""A training step on this machine: images per second, peak memory, share of data loading, and a profile.

    .venv/bin/python benchmarks/training_step.py                                  # ViT-S, batch 4
    .venv/bin/python benchmarks/training_step.py --arch vit_large --batch 2 --steps 1

The whole step of the loop with the official crops (2 of 224, 8 of 96), the heads and details of the recipe
vits_single_gpu, fp32 on a CPU and bf16 on a GPU; photographs are decoded and augmented in the same process.
One warm-up step, `--steps` measured steps, one profiled step. Writes
benchmarks/ledger/training_step_<arch>_<device>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from shared import make_parser, new_record, save
from skimage import data

from dinodeploy.hardware.devices import cpu_name
from dinov3_ref.configs import load_config
from dinov3_ref.data import build_training_loader
from dinov3_ref.train.loop import TrainingRun

PACKAGES = ("torch", "torchvision", "pillow", "numpy")
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
SIZE = (500, 375)  # about an ImageNet image
TOP = 12  # rows of the profile


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu_name()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(options, Path(folder), device)
    record = {
        **new_record("training_step", PACKAGES),
        "device": name,
        "threads": torch.get_num_threads(),
        "options": vars(options),
        **measured,
    }
    path = save(record, "training_step", options.arch, machine=name)
    show(record)
    print(f"written: {path}")


def measure(options: argparse.Namespace, folder: Path, device: torch.device) -> dict[str, Any]:
    """Speed, memory and profile of one configuration."""
    config = load_config(
        "vits_single_gpu",
        [
            f"student.arch={options.arch}",
            f"train.dataset_path={write_photographs(folder / 'photos')}",
            f"train.output_dir={folder / 'run'}",
            f"train.batch_size_per_gpu={options.batch}",
            f"train.checkpointing={str(options.checkpointing).lower()}",
            "train.accumulation_steps=1",
            "train.num_workers=0",
            "train.compile=false",
            f"compute_precision.param_dtype={'bf16' if device.type == 'cuda' else 'fp32'}",
        ],
    )
    run = TrainingRun(config, build_training_loader(config), device)
    batches = run.batches()
    step(run, batches, 0)
    run.throughput.read()
    started = time.process_time()
    for number in range(options.steps):
        step(run, batches, number + 1)
    processor_seconds = time.process_time() - started
    clock = run.throughput.read()
    return {
        "pictures_a_second": clock["images_per_second"],
        "processor_seconds_a_picture": processor_seconds / (options.steps * options.batch),
        "data_share": clock["data_share"],
        "peak_gib": peak_gib(device),
        "parameters_of_the_backbone": sum(p.numel() for p in run.arch.student["backbone"].parameters()),
        "profile": profile(run, batches, options.steps + 1),
    }


def step(run: TrainingRun, batches: Iterator[dict[str, Any]], iteration: int) -> None:
    run.step(batches, iteration, run.rates.at(iteration))
    if run.device.type == "cuda":
        torch.cuda.synchronize()


def peak_gib(device: torch.device) -> float:
    """Peak memory: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def profile(run: TrainingRun, batches: Iterator[dict[str, Any]], iteration: int) -> list[dict[str, Any]]:
    """The operators with the most time in a step, with their shares of the total."""
    with torch.profiler.profile(acc_events=True) as recorded:
        step(run, batches, iteration)
    key = "self_device_time_total" if run.device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(recorded.key_averages(), key=lambda row: getattr(row, key), reverse=True)
    total = sum(getattr(row, key) for row in rows)
    return [
        {"operator": row.key, "calls": row.count, "share": getattr(row, key) / total} for row in rows[:TOP]
    ]


def write_photographs(folder: Path) -> Path:
    """Four photographs as JPEG files."""
    folder.mkdir()
    for name in PHOTOGRAPHS:
        Image.fromarray(getattr(data, name)()).resize(SIZE).save(folder / f"{name}.jpg", quality=90)
    return folder


def show(record: dict[str, Any]) -> None:
    options = record["options"]
    print(
        f"{options['arch']}, batch {options['batch']}, on {record['device']}, {record['threads']} threads: "
        f"{record['pictures_a_second']:.2f} images per second "
        f"({record['processor_seconds_a_picture']:.2f} processor seconds each), peak "
        f"{record['peak_gib']:.2f} GiB, data {record['data_share']:.1%}"
    )
    for row in record["profile"]:
        print(f"  {row['share']:6.1%}  {row['operator']}  x{row['calls']}")


if __name__ == "__main__":
    main()
