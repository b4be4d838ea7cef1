"""Images per second of the training data pipeline on one core, and the time of each step.

    .venv/bin/python benchmarks/training_data.py                    # the official crops: 2 of 224, 8 of 96
    .venv/bin/python benchmarks/training_data.py --global-size 64 --local-size 32 --local-number 4

A photograph of scikit-image as a JPEG of 500x375 (about an ImageNet image) goes through decoding,
DataAugmentationDINO and collate with its masks, on one thread. Medians over single images and batches.
Writes benchmarks/ledger/training_data_<size>_<cpu>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image
from shared import new_record, save
from skimage import data

from dinov3_ref.data import DataAugmentationDINO, MaskingGenerator, collate_data_and_cast
from dinov3_ref.data.decoding import decode_rgb
from dinov3_ref.data.masking import max_rectangle
from dinov3_ref.data.sample import Sample

PACKAGES = ("torch", "torchvision", "pillow", "numpy")
PATCH = 16


def milliseconds(step: Callable[[], object], rounds: int) -> list[float]:
    """Sorted times of single runs, after three warm-up runs."""
    taken = []
    for number in range(rounds + 3):
        started = time.perf_counter()
        step()
        if number >= 3:
            taken.append(1000 * (time.perf_counter() - started))
    return sorted(taken)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """{step: {"median_ms", "p95_ms"}} for one image, and images per second."""
    buffer = io.BytesIO()
    Image.fromarray(data.coffee()).resize((500, 375)).save(buffer, "JPEG", quality=90)
    image = decode_rgb(buffer.getvalue(), "coffee")
    sizes = {"global_crops_size": options.global_size, "local_crops_size": options.local_size}
    augment = DataAugmentationDINO((0.32, 1.0), (0.05, 0.32), options.local_number, **sizes)
    samples = [Sample(augment(image), (), position) for position in range(options.batch)]
    collate = partial(
        collate_data_and_cast,
        samples,
        mask_ratio_tuple=(0.1, 0.5),
        mask_probability=0.5,
        dtype=torch.float32,
        mask_generator=MaskingGenerator(
            options.global_size // PATCH, max_num_patches=max_rectangle(options.global_size, PATCH)
        ),
    )
    taken = {
        "decode": milliseconds(lambda: decode_rgb(buffer.getvalue(), "coffee"), options.rounds),
        "augment": milliseconds(lambda: augment(image), options.rounds),
        "collate": [ms / options.batch for ms in milliseconds(collate, 10)],
    }
    steps = {
        name: {"median_ms": statistics.median(ms), "p95_ms": ms[int(0.95 * (len(ms) - 1))]}
        for name, ms in taken.items()
    }
    return {"steps": steps, "pictures_a_second": 1000 / sum(step["median_ms"] for step in steps.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--global-size", type=int, default=224)
    parser.add_argument("--local-size", type=int, default=96)
    parser.add_argument("--local-number", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    record = {
        **new_record("training_data", PACKAGES),
        "options": vars(options),
        **measure(options),
    }
    save(record, "training_data", str(options.global_size))
    for name, step in record["steps"].items():
        print(f"{name}: {step['median_ms']:.2f} ms per image (p95 {step['p95_ms']:.2f})")
    print(f"{record['pictures_a_second']:.1f} images per second on one core of {record['cpu']}")


if __name__ == "__main__":
    main()
