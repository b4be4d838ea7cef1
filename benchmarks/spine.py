"""From checkpoint to embedding on this CPU: export, cold start and latency, beside the peers, in one run.

    make bench                                                       # vit_small, fp32, every peer
    .venv/bin/python benchmarks/spine.py --arch vit_base --recipe int8 --shapes 1:224,32:224,1:1024x768
    .venv/bin/python benchmarks/spine.py --vs openvino --outputs cls

Measures export (time, peak memory of the process) beside `torch.onnx.export` of transformers' model, cold
start of `dinodeploy embed` with one image, and then what `dinodeploy bench` measures (`dinodeploy/bench/`):
latency in turns, ratios, share of the machine's peak, memory, start-up time, and the error of each. Writes
one record, benchmarks/ledger/cpu_<arch>_<recipe>_<cpu>_<yyyymm>.json; `benchmarks/table.py` prints them
all.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from shared import export_random, make_parser, run_dinodeploy, run_plain_export, save

from dinodeploy.bench import BenchOptions, as_table, run_bench, summary
from dinodeploy.cli.output import parse_size
from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from dinov3_ref.models import ConvNeXtConfig
from exporters.bundle.golden import load_photo

STARTS = 5
PEERS = "torch,compile,transformers,timm,openvino"


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--recipe", default="fp32")
    parser.add_argument("--vs", default=PEERS, help="peers, as in `dinodeploy bench`")
    parser.add_argument("--shapes", default="1:224,8:224,1:512,8:512", help="batch:size, size as in --imgsz")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--outputs", help="outputs of the engine, for instance cls")
    parser.add_argument("--out", type=Path, help="the record; default: benchmarks/ledger/")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = folder / "bundle"
        export = measure_export(options.arch, options.recipe, bundle)
        plain = None
        if options.recipe == "fp32" and "transformers" in options.vs:
            plain = measure_plain_export(options.arch, folder)
        start = measure_cold_start(bundle, folder)
        measured = run_bench(
            str(bundle),
            BenchOptions(
                vs=tuple(options.vs.split(",")) if options.vs else (),
                shapes=tuple(parse_shape(text) for text in options.shapes.split(",")),
                rounds=options.rounds,
                threads=options.threads,
                outputs=tuple(options.outputs.split(",")) if options.outputs else None,
            ),
            lambda text: print(f"  {text}", file=sys.stderr),
        )
    command = " ".join(["benchmarks/spine.py", *arguments])
    record = {"command": command, **measured, "export": export, "plain_export": plain, "cold_start": start}
    path = save(record, "cpu", options.arch, options.recipe, out=options.out)
    show(record)
    print(f"written: {path}")


def parse_shape(text: str) -> tuple[int, int, int]:
    """`8:512x320` -> (8, 512, 320)."""
    batch, _, side = text.partition(":")
    size = parse_size(side)
    assert size is not None
    return int(batch), *size


def measure_export(arch: str, recipe: str, bundle: Path) -> dict[str, float | None]:
    """Seconds and peak memory of the whole command, in its own process."""
    seconds, peak = export_random(arch, recipe, bundle)
    weights = sum(path.stat().st_size for path in bundle.glob("model.onnx*"))
    return {"seconds": seconds, "peak_mib": peak, "weights_mib": weights / 2**20}


def measure_plain_export(arch: str, folder: Path) -> dict[str, float | None] | None:
    """`torch.onnx.export` of the same weights, without a parity check. ViTs only."""
    checkpoint = random_checkpoint(arch)
    if isinstance(checkpoint.config, ConvNeXtConfig):
        return None
    save_checkpoint(checkpoint, "hf", folder / "hf")
    seconds, peak = run_plain_export(str(folder / "hf"), str(folder / "plain.onnx"))
    return {"seconds": seconds, "peak_mib": peak}


def measure_cold_start(bundle: Path, folder: Path) -> dict[str, float]:
    """Median seconds of `dinodeploy embed` with one image, from start to end of the process."""
    Image.fromarray(load_photo("chelsea")).save(folder / "photo.jpg")
    arguments = ["embed", str(folder / "photo.jpg"), "--engine", str(bundle), "--out", str(folder / "out")]
    seconds = [run_dinodeploy([*arguments, "--overwrite"])[0] for _ in range(STARTS + 1)]
    return {"seconds": float(np.median(seconds[1:]))}


def show(record: dict[str, Any]) -> None:
    export, plain, start = record["export"], record["plain_export"], record["cold_start"]
    print(summary(record))
    print(f"export {_cost(export)} (weights {export['weights_mib']:.0f} MiB)")
    if plain is not None:
        print(f"torch.onnx.export of transformers' model, without a parity check: {_cost(plain)}")
    print(f"cold start of embed, one image: {start['seconds']:.2f} s")
    Console(highlight=False, width=100).print(as_table(record))


def _cost(run: dict[str, Any]) -> str:
    peak = "" if run["peak_mib"] is None else f", peak {run['peak_mib']:.0f} MiB"
    return f"{run['seconds']:.1f} s{peak}"


if __name__ == "__main__":
    main(sys.argv[1:])
