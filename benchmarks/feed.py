"""Does decoding keep up with the engine? The pipeline of `embed` with a simulated engine.

    .venv/bin/python benchmarks/feed.py                  # 32 decoders of 10 ms, engine of 0.2 ms per image
    .venv/bin/python benchmarks/feed.py --decoders 64 --decode-ms 18 --engine-ms 0.1 --batch 64
    .venv/bin/python benchmarks/feed.py --real           # JPEGs of 1.6 MP, decoded on this machine's cores

The engine sleeps, so it neither uses a core nor holds the interpreter. Without --real the decoders sleep too:
many cores and a fast GPU are simulated on a small machine. Each way of decoding reports

    images_per_second   and of_ideal: its share of what decoders and engine allow
    main_us             microseconds of CPU time of the main process per image, all threads: an upper bound of
                        the time that its interpreter is held
    bytes_copied        bytes per image that the main process copies to put a batch together
    engine_bytes        bytes per image that the engine gets and copies to a GPU: a quarter with --input uint8
    seconds             of the whole run, start included; the others are of its second half

The ideal is decoders / decode time, or 1 / engine time where that is less; with --real cores / (CPU time of
one image decoded alone). Writes benchmarks/ledger/feed_<simulated|real>[_uint8]_<cpu>_<yyyymm>.json.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from embed_throughput import make_pictures
from shared import make_parser, new_record, save
from simulated import MEAN, STD, SleepingDecoder, SleepingEngine, one_file

from dinodeploy.hardware.cores import hardware_threads
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.pipeline import embed_source
from dinodeploy.sources import FileSource
from dinodeploy.store.plan import Plan, hash_listing
from dinodeploy.store.writer import Store

SIDE = 224
STEADY = 0.5  # share of the images after which measuring begins: 32 processes start slowly on two cores
PACKAGES = ("numpy", "pillow")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--decoders", type=int, default=32, help="threads or processes")
    parser.add_argument("--decode-ms", type=float, default=10.0, help="a simulated decoder takes per image")
    parser.add_argument("--engine-ms", type=float, default=0.2, help="the engine takes per image")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--input", choices=("float32", "uint8"), default="float32", help="of the engine")
    parser.add_argument("--real", action="store_true", help="decode JPEGs of 1.6 megapixels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.real:
            options.decoders = int(hardware_threads())
            steps = Preprocess("official", SIDE, SIDE, MEAN, STD, dtype=options.input)
            source: Any = FileSource(make_pictures(Path(folder) / "pictures", options.images))
            alone = seconds_alone(source, steps)
            ideal = min(options.decoders / alone, 1e3 / options.engine_ms)
        else:
            slept = options.decode_ms / 1e3
            steps = SleepingDecoder("official", SIDE, SIDE, MEAN, STD, dtype=options.input, seconds=slept)
            source = one_file(Path(folder), options.images)
            alone = options.decode_ms / 1e3
            ideal = min(options.decoders / alone, 1e3 / options.engine_ms)
        rows = [
            {"decoding": name, **measure(source, steps, options, workers, ideal, Path(folder) / name)}
            for name, workers in ways(options.decoders).items()
        ]
    record: dict[str, Any] = {
        **new_record("feed", PACKAGES),
        "load": round(os.getloadavg()[0], 1),
        "decoders": options.decoders,
        "input": options.input,
        "decode_ms": round(1e3 * alone, 2),
        "engine_ms": options.engine_ms,
        "batch": options.batch,
        "images": options.images,
        "rounds": options.rounds,
        "ideal_images_per_second": round(ideal, 1),
        "rows": rows,
    }
    what = ("real" if options.real else "simulated") + ("_uint8" if options.input == "uint8" else "")
    print(f"wrote {save(record, 'feed', what)}")


def ways(decoders: int) -> dict[str, dict[str, Any]]:
    """Options of `embed_source` by name."""
    return {
        "threads, default": {"decode": "threads"},
        "threads": {"decode": "threads", "workers": decoders},
        "processes": {"decode": "processes", "workers": decoders},
    }


def seconds_alone(source: FileSource, steps: Preprocess) -> float:
    """CPU seconds of one image that is decoded with nothing else running."""
    times = []
    for index in range(min(16, len(source.ids))):
        began = time.process_time()
        steps(open_image(source.image(index)))
        times.append(time.process_time() - began)
    return statistics.median(times)


def measure(
    source: FileSource, steps: Preprocess, options: Any, how: dict[str, Any], ideal: float, out: Path
) -> dict[str, Any]:
    """Medians of a few runs over all images into a store on disk."""
    rates, main_us, wall, copied, handed = [], [], [], 0.0, 0.0
    for number in range(options.rounds):
        engine: Any = SleepingEngine(options.engine_ms / 1e3)
        plan = Plan(
            hash_listing(source.ids), len(source.ids), 10_000, ("cls",), "npy", "float32", options.batch, {}
        )
        with Store(out.with_name(f"{out.name}_{number}"), plan) as store:
            began = time.perf_counter()
            report = embed_source(engine, source, store, steps, **how)
            wall.append(time.perf_counter() - began)
            assert report.embedded == len(source.ids)
        started = next(mark for mark in engine.marks if mark[0] >= STEADY * len(source.ids))
        images, seconds, used, moved = (b - a for a, b in zip(started, engine.marks[-1], strict=True))
        rates.append(images / seconds)
        main_us.append(1e6 * used / images)
        copied, handed = moved / images, engine.handed / engine.images
    rate = statistics.median(rates)
    row = {
        "images_per_second": round(rate, 1),
        "of_ideal": round(rate / ideal, 3),
        "main_us": round(statistics.median(main_us), 1),
        "bytes_copied": round(copied),
        "engine_bytes": round(handed),
        "seconds": round(statistics.median(wall), 2),
    }
    print(how, "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    main()
