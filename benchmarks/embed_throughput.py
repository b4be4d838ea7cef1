"""A folder of JPEGs: `embed` compared with its engine alone, a loop in torch and two other methods, in one
run.

    .venv/bin/python benchmarks/embed_throughput.py                      # exports vit_small first
    .venv/bin/python benchmarks/embed_throughput.py --recipe int8 --pictures 96 --rounds 5
    .venv/bin/python benchmarks/embed_throughput.py --bundle BUNDLE --checkpoint FILE

JPEG photographs of 1.6 MP, output CLS; all methods use the same preprocessing and run interleaved:

    engine          batches ready in memory, all threads on one batch after the other
    parallel        the same images, one thread and one batch per core: the limit of `embed`
    embed           `embed_source` into a store on disk, as the command does
    loader          clip-retrieval's method: loading threads, a model loop, one .npy at the end
    one by one      fastembed's method: decode a batch, run it, decode the next
    torch           the same loop with the reference, eager, in fp32: what people have before they export

The methods of other packages are rewritten in few lines and use our engine. On a shared machine, CPU seconds
per image are more reliable than images per second. `error` is relative Frobenius of CLS against the loop in
torch, over all images. Writes
benchmarks/ledger/embed_throughput_<arch>_<recipe>_<cpu>_<yyyymm>.json.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from shared import export_random, make_parser, new_record, save

from dinodeploy import Embedder, load_embeddings
from dinodeploy.arrays import FloatArray
from dinodeploy.hardware.cores import cores
from dinodeploy.images.open import open_image
from dinodeploy.parity.judge import measure as measure_output
from dinodeploy.pipeline.pipeline import embed_source
from dinodeploy.pipeline.probe import choose_batch
from dinodeploy.sources import FileSource
from dinodeploy.store.plan import Plan, hash_listing
from dinodeploy.store.writer import Store
from exporters.peers import open_peer

PACKAGES = ("onnxruntime", "torch", "numpy", "pillow")
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
SIDE = (1536, 1024)  # width, height
BATCH = 8
OUTPUTS = ("cls",)

Way = Callable[[], FloatArray | None]  # CLS of every image; None if a few images are repeated


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--bundle", type=Path, help="an exported model; else one is exported")
    parser.add_argument("--checkpoint", help="the file that the bundle was made of, unless it is random")
    parser.add_argument("--arch", default="vit_small", help="of the model that is exported")
    parser.add_argument("--recipe", default="fp32", help="of the model that is exported")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decode", default="auto", help="threads or processes; auto as `embed` chooses")
    parser.add_argument("--threads", type=int, default=cores(), help="of every engine; the cores by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or Path(folder) / "bundle"
        if not options.bundle:
            export_random(options.arch, options.recipe, bundle)
        paths = make_pictures(Path(folder) / "pictures", options.pictures)
        opening: dict[str, Any] = {"device": "cpu", "outputs": OUTPUTS, "threads": options.threads}
        with (
            Embedder.open(bundle, **opening) as embedder,
            Embedder.open(bundle, **opening, hint="throughput") as laned,
        ):
            peer = open_peer("torch", bundle, options.checkpoint, options.threads)
            ways = make_ways(embedder, laned, peer, paths, Path(folder), options.decode)
            rows = measure(ways, options.pictures, options.rounds)
            record: dict[str, Any] = {
                **new_record("embed_throughput", PACKAGES),
                "threads": options.threads,
                "load": round(os.getloadavg()[0], 1),
                "arch": embedder.manifest.model.arch,
                "recipe": embedder.manifest.graph.recipe,
                "runtime": embedder.backend.runtime,
                "input": [embedder.preprocess.height, embedder.preprocess.width],
                "batch": BATCH,
                "decode": options.decode,
                "pictures": options.pictures,
                "picture_size": SIDE,
                "rounds": options.rounds,
                "rows": rows,
            }
    print(f"wrote {save(record, 'embed_throughput', record['arch'], record['recipe'])}")


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


def make_ways(
    embedder: Embedder, laned: Embedder, peer: Any, paths: list[str], folder: Path, decode: Any = "auto"
) -> dict[str, Way]:
    preprocess = embedder.preprocess
    batch = np.stack([preprocess(open_image(path)) for path in paths[:BATCH]])
    numbers = iter(range(10**6))
    starts = range(0, len(paths), BATCH)

    def engine() -> None:
        for start in starts:
            embedder.run(batch[: len(paths) - start])

    def parallel() -> None:
        with ThreadPoolExecutor(laned.backend.parallel_runs) as pool:
            list(pool.map(lambda start: laned.run(batch[: len(paths) - start]), starts))

    def embed() -> FloatArray:
        chosen = choose_batch(laned, len(paths), preprocess, lambda text: None)
        fingerprint = laned.engine.fingerprint(preprocess)
        plan = Plan(hash_listing(paths), len(paths), 10_000, OUTPUTS, "npy", "float32", chosen, fingerprint)
        out = folder / f"embed_{next(numbers)}"
        with Store(out, plan) as store:
            embed_source(laned, FileSource(paths), store, preprocess, decode=decode)
            store.finish()
        return load_embeddings(out)[1]

    def loader() -> FloatArray:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(lambda path: preprocess(open_image(path)), paths)
            found = [embedder.run(np.stack(group))["cls"] for group in groups(decoded)]
        np.save(folder / f"loader_{next(numbers)}.npy", np.concatenate(found))
        return np.concatenate(found)

    def loop(run: Callable[[FloatArray], Any]) -> Way:
        def one_by_one() -> FloatArray:
            decoded = (preprocess(open_image(path)) for path in paths)
            found = np.concatenate([run(np.stack(group))["cls"] for group in groups(decoded)])
            np.save(folder / f"one_{next(numbers)}.npy", found)
            return found

        return one_by_one

    return {
        "engine": engine,
        "lanes": parallel,  # the name in the ledger
        "embed": embed,
        "loader": loader,
        "one by one": loop(embedder.run),
        "torch": loop(peer.run),
    }


def groups(items: Iterator[Any]) -> Iterator[list[Any]]:
    while group := list(islice(items, BATCH)):
        yield group


def measure(ways: dict[str, Way], pictures: int, rounds: int) -> list[dict[str, Any]]:
    """Medians of interleaved rounds after one to warm up; ratios are taken within a round."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    cls: dict[str, Any] = {}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            started, worked = time.perf_counter(), time.process_time()
            cls[name] = way()
            if turn:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - worked)
    rows = []
    for name in ways:
        found = cls[name]
        error = None if found is None else measure_output("cls", found, cls["torch"])["relative_frobenius"]
        rows.append(
            {
                "way": name,
                "images_per_second": round(pictures / statistics.median(wall[name]), 2),
                "of_the_engine": ratio(wall["engine"], wall[name]),
                "of_torch": ratio(wall["torch"], wall[name]),
                "cpu_seconds_a_picture": round(statistics.median(cpu[name]) / pictures, 4),
                "of_the_engine_cpu": ratio(cpu["engine"], cpu[name]),
                "relative_frobenius_cls": error,
            }
        )
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def ratio(seconds: list[float], own: list[float]) -> float:
    """How many times as fast as what took `seconds`."""
    return round(statistics.median(a / b for a, b in zip(seconds, own, strict=True)), 3)


if __name__ == "__main__":
    main()
