"""`embed` against its own engine, and against two other ways of doing the same, in one run.

    .venv/bin/python benchmarks/embed_throughput.py                      # exports vit_small first
    .venv/bin/python benchmarks/embed_throughput.py --bundle BUNDLE --pictures 96 --rounds 5

Photographs as JPEGs of 1.6 MP; every way runs the same session with the same preprocessing, interleaved:

    engine          batches that lie ready in memory: the limit
    embed           `embed_source` into a store on disk, as the command does
    loader          clip-retrieval's method: loading threads, a model loop, one .npy at the end
    one by one      fastembed's method: decode a batch, run it, decode the next

The two are the methods, written anew in a few lines, not the packages. On a machine that others use too, the
processor seconds a picture say more than the pictures a second. Writes
benchmarks/ledger/embed_throughput_<cpu>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy import Embedder
from dinodeploy.embed import embed_source
from dinodeploy.images import open_image
from dinodeploy.machine import cpu_name
from dinodeploy.plan import Plan, hash_listing
from dinodeploy.sources import FileSource
from dinodeploy.store import Store

LEDGER = Path(__file__).parent / "ledger"
PACKAGES = ("onnxruntime", "numpy", "pillow")
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
SIDE = (1536, 1024)  # width, height
BATCH = 8

Way = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="an exported model; vit_small, fp32 by default")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the engine; its own choice by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or export_small(Path(folder) / "bundle")
        paths = make_pictures(Path(folder) / "pictures", options.pictures)
        with Embedder.open(bundle, device="cpu", threads=options.threads) as embedder:
            ways = make_ways(embedder, paths, Path(folder))
            rows = measure(ways, options.pictures, options.rounds)
            record: dict[str, Any] = {
                "command": " ".join(["benchmarks/embed_throughput.py", *sys.argv[1:]]),
                "date": datetime.now(timezone.utc).date().isoformat(),
                "cpu": cpu_name(),
                "cores": os.cpu_count(),
                "load": round(os.getloadavg()[0], 1),
                "python": platform.python_version(),
                "versions": {package: version(package) for package in PACKAGES},
                "arch": embedder.manifest.model.arch,
                "recipe": embedder.manifest.graph.recipe,
                "input": [embedder.preprocess.height, embedder.preprocess.width],
                "batch": BATCH,
                "pictures": options.pictures,
                "picture_size": SIDE,
                "rounds": options.rounds,
                "rows": rows,
            }
    name = re.sub(r"[^a-z0-9]+", "-", cpu_name().split("[")[0].lower()).strip("-")
    path = LEDGER / f"embed_throughput_{name}_{datetime.now(timezone.utc):%Y%m}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")


def export_small(bundle: Path) -> Path:
    command = ["export", "--arch", "vit_small", "--weights", "random", "--out", str(bundle)]
    subprocess.run([sys.executable, "-m", "dinodeploy.cli.app", *command], check=True)
    return bundle


def make_pictures(folder: Path, count: int) -> list[str]:
    """Real photographs, brought to one size: detail is less than a camera's, the work is the same."""
    import skimage

    folder.mkdir()
    data = Path(skimage.__file__).parent / "data"
    large = [Image.open(data / name).convert("RGB").resize(SIDE) for name in PHOTOGRAPHS]
    paths = []
    for number, image in enumerate(islice(cycle(large), count)):
        paths.append(str(folder / f"{number:04d}.jpg"))
        image.save(paths[-1], quality=90)
    return paths


def make_ways(embedder: Embedder, paths: list[str], folder: Path) -> dict[str, Way]:
    preprocess = embedder.preprocess
    ready = [preprocess(open_image(path)) for path in paths[:BATCH]]
    batch = np.stack(ready)
    numbers = iter(range(10**6))

    def engine() -> None:
        for start in range(0, len(paths), BATCH):
            embedder.run(batch[: len(paths) - start])

    def embed() -> None:
        fingerprint = embedder.manifest.fingerprint(embedder.bundle.engine, preprocess)
        plan = Plan(hash_listing(paths), len(paths), 10_000, ("cls",), "npy", "float32", BATCH, fingerprint)
        with Store(folder / f"embed_{next(numbers)}", plan) as store:
            embed_source(embedder, FileSource(paths), store, preprocess)
            store.finish()

    def loader() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(lambda path: preprocess(open_image(path)), paths)
            found = [embedder.run(np.stack(group))["cls"] for group in groups(decoded)]
        np.save(folder / f"loader_{next(numbers)}.npy", np.concatenate(found))

    def one_by_one() -> None:
        decoded = (preprocess(open_image(path)) for path in paths)
        found = [embedder.run(np.stack(group))["cls"] for group in groups(decoded)]
        np.save(folder / f"one_{next(numbers)}.npy", np.concatenate(found))

    return {"engine": engine, "embed": embed, "loader": loader, "one by one": one_by_one}


def groups(items: Iterator[Any]) -> Iterator[list[Any]]:
    while group := list(islice(items, BATCH)):
        yield group


def measure(ways: dict[str, Way], pictures: int, rounds: int) -> list[dict[str, Any]]:
    """Medians of interleaved rounds after one to warm up; ratios are taken within a round."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            started, worked = time.perf_counter(), time.process_time()
            way()
            if turn:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - worked)
    rows = []
    for name in ways:
        share = [engine / own for engine, own in zip(wall["engine"], wall[name], strict=True)]
        worked = [engine / own for engine, own in zip(cpu["engine"], cpu[name], strict=True)]
        rows.append(
            {
                "way": name,
                "images_per_second": round(pictures / statistics.median(wall[name]), 2),
                "of_the_engine": round(statistics.median(share), 3),
                "cpu_seconds_a_picture": round(statistics.median(cpu[name]) / pictures, 4),
                "of_the_engine_cpu": round(statistics.median(worked), 3),
            }
        )
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


if __name__ == "__main__":
    main()
