"""Fine-tuning on scikit-learn's digits: LoRA and unfrozen blocks beside a frozen linear head; cost of a step.

    .venv/bin/python benchmarks/fine_tune.py

Accuracy: toy_vit (examples/models), digits enlarged from 8 to 32 px, three seeds that chose no setting. Each
holds out another fifth of the images, the same for all three; the rest is split by `train-head` itself.
Step: a ViT-S with random weights at 224 px, fp32, beside a plain PyTorch loop of the same model (LoRA: with
PEFT), in processes of their own that take turns; median of the steps after two, and peak memory.
Writes benchmarks/ledger/fine_tune_<device>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from shared import make_parser, new_record, save
from torch import nn

from dinodeploy import Embedder, export
from dinodeploy.hardware.devices import cpu_name
from dinodeploy.heads.fine_tune import FineTuneJob, fine_tune
from dinodeploy.heads.train import TrainOptions, train_head

PACKAGES = ("torch", "torchvision", "peft", "scikit-learn", "numpy", "pillow")
MODEL = Path(__file__).parent.parent / "examples" / "models" / "toy_vit"
SIDE, SEEDS = 32, (3, 4, 5)  # the settings were chosen on seeds 0 to 2, so these are fresh
WORDS = ("flip=false", "crop_scale=0.8,1", "patience=0", "log_period=1000")
WAYS: dict[str, tuple[dict[str, int], tuple[str, ...]]] = {
    "lora": ({"lora": 8}, ("lr=3e-3",)),
    "unfreeze": ({"unfreeze": 4}, ("lr=1e-3", "layer_decay=0.9")),
}
STEPS, SKIPPED, PIXELS, CLASSES = 5, 2, 224, 10


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=2, help="of the steps that are timed")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--time", nargs=2, metavar=("WAY", "LOOP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.time:
        print(json.dumps(timed_steps(*options.time, options.batch)))
        return
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        accuracy = accuracies(Path(folder), options.epochs)
    record = {
        **new_record("fine_tune", PACKAGES),
        "device": cpu_name(),
        "threads": torch.get_num_threads(),
        "options": {name: value for name, value in vars(options).items() if name != "time"},
        "settings": {way: [*WORDS, *words] for way, (_, words) in WAYS.items()},
        "accuracy": accuracy,
        "processor_seconds_of_accuracy": time.process_time() - started,
        "steps": compare_steps(options.rounds, options.batch),
    }
    print(json.dumps({"accuracy": accuracy, "steps": record["steps"]}, indent=2))
    print(f"written: {save(record, 'fine_tune', machine=cpu_name())}")


def accuracies(folder: Path, epochs: int) -> dict[str, list[float]]:
    """Accuracy on the held-out images of each seed: of the frozen head, and of both ways."""
    found: dict[str, list[float]] = {name: [] for name in ("frozen", *WAYS)}
    engine = export(MODEL, folder / "bundle", imgsz=(SIDE, SIDE)).root
    for seed in SEEDS:
        train, test = write_digits(folder / str(seed), seed)
        with Embedder.open(engine, device="cpu") as embedder:
            made = train_head(embedder, train, TrainOptions("classify", seed=seed), test=test)
        found["frozen"].append(made.report["accuracy"])
        for way, (how, words) in WAYS.items():
            job = FineTuneJob(
                task="classify",
                data=train,
                out=folder / f"{way}-{seed}",
                weights=str(MODEL),
                test=test,
                size=(SIDE, SIDE),
                seed=seed,
                device="cpu",
                settings=(*WORDS, *words, f"epochs={epochs}"),
                **how,  # type: ignore[arg-type]
            )
            found[way].append(fine_tune(job).report["accuracy"])
        print({name: values[-1] for name, values in found.items()}, flush=True)
    return found


def write_digits(folder: Path, seed: int) -> tuple[Path, Path]:
    """Write a fifth of the digits as test images, the others for training: a folder per class each."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    held = set(
        np.random.default_rng(seed).permutation(len(digits.target))[: len(digits.target) // 5].tolist()
    )
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / ("test" if index in held else "train") / str(label) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * 255 / 16).astype(np.uint8))
        image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB").save(path)
    return folder / "train", folder / "test"


# ---- cost of a step -----------------------------------------------------------------------------


def compare_steps(rounds: int, batch: int) -> dict[str, dict[str, Any]]:
    """Seconds of a step and peak memory of both loops, which take turns; ratios of the medians."""
    result: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
        for _ in range(rounds):
            for loop, done in runs.items():
                command = [sys.executable, __file__, "--time", way, loop, "--batch", str(batch)]
                child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                done.append(json.loads(child.stdout.splitlines()[-1]))
        middle = {
            loop: {key: statistics.median(run[key] for run in done) for key in done[0]}
            for loop, done in runs.items()
        }
        ratios = {f"{key}_ratio": middle["ours"][key] / middle["plain"][key] for key in middle["ours"]}
        result[way] = {**middle, **ratios, "runs": runs}
    return result


def timed_steps(way: str, loop: str, batch: int) -> dict[str, float]:
    """Processor and wall seconds of a step, and the peak memory of this process in GiB."""
    images = torch.randn(batch, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    data = {"images": images, "targets": torch.arange(batch) % CLASSES}
    step = (our_step if loop == "ours" else plain_step)(way)
    wall, processor = [], []
    for number in range(STEPS):
        before = time.perf_counter(), time.process_time()
        step(data)
        if number >= SKIPPED:
            wall.append(time.perf_counter() - before[0])
            processor.append(time.process_time() - before[1])
    return {
        "seconds": statistics.median(wall),
        "processor_seconds": statistics.median(processor),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


Step = Callable[[dict[str, torch.Tensor]], object]


def our_step(way: str) -> Step:
    from dinov3_ref.adapt.networks import FineTuned
    from dinov3_ref.adapt.objectives import Classify
    from dinov3_ref.adapt.options import FineTuneOptions, loop_config
    from dinov3_ref.checkpoints import random_checkpoint
    from dinov3_ref.heads import LinearClassifier
    from dinov3_ref.train.schedules import build_rates
    from dinov3_ref.train.step import TrainingStep

    options = FineTuneOptions("classify", PIXELS, PIXELS, **WAYS[way][0])
    checkpoint = random_checkpoint("vit_small")
    head = LinearClassifier(checkpoint.config.embed_dim, CLASSES)
    networks = FineTuned(checkpoint, head, Classify(), options).train()
    config = loop_config(options, STEPS, "unused", bf16=False)
    step, rates = TrainingStep(config, networks, torch.device("cpu")), build_rates(config)
    return lambda data: step(iter([data]), STEPS + 1, rates.at(STEPS + 1))


def plain_step(way: str) -> Step:
    """A loop as tutorials write it: AdamW, cross entropy, clipping."""
    from dinov3_ref.checkpoints import build_model, random_checkpoint

    backbone: Any = build_model(random_checkpoint("vit_small")).requires_grad_(False)
    classifier = nn.Linear(2 * backbone.embed_dim, CLASSES)
    if way == "lora":
        from dinov3_ref.torchvision_shim import import_torchvision

        import_torchvision()
        import peft

        names = r"blocks\.\d+\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)"
        adapted = peft.get_peft_model(backbone, peft.LoraConfig(r=8, lora_alpha=16, target_modules=names))
        backbone = adapted.base_model.model
    else:
        for module in (*backbone.blocks[-WAYS[way][0]["unfreeze"] :], backbone.norm):
            module.requires_grad_(True)
    trained = [p for p in (*backbone.parameters(), *classifier.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step(data: dict[str, torch.Tensor]) -> None:
        features = backbone.forward_features(data["images"])
        pooled = torch.cat([features["x_norm_clstoken"], features["x_norm_patchtokens"].mean(1)], dim=-1)
        loss = nn.functional.cross_entropy(classifier(pooled), data["targets"])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
