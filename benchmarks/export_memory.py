"""Export of a model that is larger than memory: seconds and peak memory.

    .venv/bin/python benchmarks/export_memory.py                                 # the 7B in bf16
    .venv/bin/python benchmarks/export_memory.py --arch vit_huge_plus --recipe fp16 --folder /data
    .venv/bin/python benchmarks/export_memory.py --depth 2                       # its width, two blocks

Random weights are written in the hub's layout, fp32 safetensors in shards beside a config.json, one shard
in memory at a time; then `dinodeploy export` reads, exports and checks them in its own process. Two peaks
are reported: all resident pages, which include mapped files as long as the system keeps them, and anonymous
pages, which cannot be dropped. The folder holds weights and bundle meanwhile: 40 GB for the 7B. Writes
benchmarks/ledger/export_memory_<arch>_<recipe>_<cpu>_<yyyymm>.json.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from shared import make_parser, new_record, save

from dinov3_ref.checkpoints.checkpoint import Checkpoint
from dinov3_ref.checkpoints.layouts.hf import HuggingFaceLayout
from dinov3_ref.checkpoints.sidecars import hf_config, hf_preprocessor
from dinov3_ref.checkpoints.synthetic.random import random_tensor
from dinov3_ref.checkpoints.tensor_shapes import Shape, expected_shapes
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.models.released import get_architecture

PACKAGES = ("torch", "onnxruntime", "onnx", "onnxscript", "safetensors")
SHARD_BYTES = 5_000_000_000  # as on the hub
OF_CONFIG = ("patch_embed.proj.weight",)  # its dtype is in the config.json
LOOK_SECONDS = 0.25
MIB = 2**20
PROGRAM = "from dinodeploy.cli.app import main; main()"


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--arch", default="vit_7b")
    parser.add_argument("--depth", type=int, help="blocks; default: the architecture's")
    parser.add_argument("--recipe", default="bf16")
    parser.add_argument(
        "--folder", type=Path, help="a folder with enough space; default: the temporary folder"
    )
    parser.add_argument("--out", type=Path, help="the record; default: benchmarks/ledger/")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        print(f"writing the weights into {folder}", file=sys.stderr)
        weights = write_weights(options.arch, options.depth, folder / "weights")
        bundle = folder / "bundle"
        command = ["export", "--weights", str(folder / "weights"), "--precision", options.recipe]
        seconds, resident, anonymous = watch_dinodeploy([*command, "--out", str(bundle)])
        files = {path.name: path.stat().st_size / MIB for path in sorted(bundle.iterdir())}
        receipt = json.loads((bundle / "parity.json").read_text())["receipts"][0]
    record = {
        **new_record("export_memory", PACKAGES, arguments),
        "cores": os.cpu_count(),
        "arch": options.arch,
        "depth": options.depth,
        "recipe": options.recipe,
        "checkpoint_mib": weights / MIB,
        "seconds": seconds,
        "peak_resident_mib": resident,
        "peak_anonymous_mib": anonymous,
        "bundle_mib": files,
        "relative_frobenius": worst_errors(receipt),
    }
    path = save(record, "export_memory", options.arch, options.recipe, out=options.out)
    print(
        f"{options.arch} {options.recipe}: {seconds:.0f} s, at most {resident / 1024:.1f} GiB resident, "
        f"{anonymous / 1024:.1f} GiB of it anonymous, for {weights / MIB / 1024:.1f} GiB of weights"
    )
    print(f"written: {path}")


def write_weights(arch: str, depth: int | None, folder: Path) -> int:
    """Write a ViT's random weights in the hub's sharded layout; return their bytes."""
    config = get_architecture(arch)
    assert isinstance(config, ViTConfig), "a ConvNeXt is small"
    config = replace(config, depth=depth or config.depth)
    folder.mkdir()
    layout = HuggingFaceLayout()
    shards = list(split(expected_shapes(config)))
    weight_map: dict[str, str] = {}
    for index, shapes in enumerate(shards, 1):
        state = {key: random_tensor(key, shape, config, 0) for key, shape in shapes.items()}
        tensors = {key: tensor.contiguous() for key, tensor in layout.from_official(state, config).items()}
        name = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    total = sum(path.stat().st_size for path in folder.iterdir())
    known = {key: random_tensor(key, expected_shapes(config)[key], config, 0) for key in OF_CONFIG}
    checkpoint = Checkpoint(config, arch, known, "random", "lvd1689m", f"random:{arch}", "")
    documents = {
        "model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": weight_map},
        "config.json": hf_config(checkpoint),
        "preprocessor_config.json": hf_preprocessor(checkpoint),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    return total


def split(shapes: dict[str, Shape]) -> Iterator[dict[str, Shape]]:
    """Shards that keep the keys of a block together, since layouts are translated block by block."""
    shard: dict[str, Shape] = {}
    size = 0
    block = None
    for key, shape in shapes.items():
        stem = ".".join(key.split(".")[:2])
        if size >= SHARD_BYTES and stem != block:
            yield shard
            shard, size = {}, 0
        block = stem
        shard[key] = shape
        size += 4 * math.prod(shape)
    yield shard


def watch_dinodeploy(arguments: list[str]) -> tuple[float, float, float]:
    """Seconds, peak MiB of resident pages and of the anonymous ones among them. Raises CalledProcessError."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    started = time.perf_counter()
    resident = anonymous = 0
    with subprocess.Popen(command) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            held = _pages(status)
            resident = max(resident, held.get("VmHWM", 0))
            anonymous = max(anonymous, held.get("RssAnon", 0))
            time.sleep(LOOK_SECONDS)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, resident / 1024, anonymous / 1024


def worst_errors(receipt: dict[str, Any]) -> dict[str, float]:
    """Largest relative error per output, over all cases."""
    found: dict[str, float] = {}
    for row in receipt["measurements"]:
        if row["metric"] == "relative_frobenius":
            found[row["output"]] = max(found.get(row["output"], 0.0), row["value"])
    return found


def _pages(status: Path) -> dict[str, int]:
    """KiB by kind as the kernel reports them; empty for a process that has ended."""
    try:
        lines: Any = status.read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.startswith(("VmHWM", "RssAnon")))
    return {parts[0].rstrip(":"): int(parts[1]) for parts in fields}


if __name__ == "__main__":
    main(sys.argv[1:])
