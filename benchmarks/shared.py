"""Shared by the benchmarks: options, records, synthetic images, and programs in their own process."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.bench.ledger import describe_machine, record_name, write_record

LEDGER = Path(__file__).parent / "ledger"

# Both print their peak memory on the last line of stdout. The time includes the end of the process.
_DINODEPLOY = """
import sys
from dinodeploy.cli.app import main
sys.argv = ["dinodeploy", *sys.argv[1:]]
try:
    main()
finally:
    from dinodeploy.bench.probe import peak_mib
    print(peak_mib())
"""

# The usual way without dinodeploy: transformers' model and torch's exporter, dynamic shapes, no parity check.
_PLAIN_EXPORT = """
import sys
from dinov3_ref.torchvision_shim import import_torchvision
import_torchvision()
import torch, transformers
folder, out = sys.argv[1:]
model = transformers.AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
sizes = {0: torch.export.Dim("batch"), 2: 16 * torch.export.Dim("rows"), 3: 16 * torch.export.Dim("columns")}
torch.onnx.export(
    model, (torch.randn(2, 3, 224, 320),), out, dynamo=True, external_data=True, verbose=False,
    input_names=["pixel_values"], dynamic_shapes={"pixel_values": sizes},
)
from dinodeploy.bench.probe import peak_mib
print(peak_mib())
"""


def run_dinodeploy(arguments: list[str]) -> tuple[float, float | None]:
    """Seconds and peak MiB (None where the system does not report it). Raises CalledProcessError."""
    return _run(_DINODEPLOY, arguments)


def export_random(arch: str, recipe: str, bundle: Path) -> tuple[float, float | None]:
    """The same for an export with random weights."""
    command = ["export", "--arch", arch, "--weights", "random", "--precision", recipe, "--out", str(bundle)]
    return run_dinodeploy(command)


def run_plain_export(checkpoint: str, out: str) -> tuple[float, float | None]:
    """The same for `torch.onnx.export` on the directory of a checkpoint in transformers' layout."""
    return _run(_PLAIN_EXPORT, [checkpoint, out])


def _run(program: str, arguments: list[str]) -> tuple[float, float | None]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds = time.perf_counter() - started
    peak = done.stdout.splitlines()[-1]
    return seconds, None if peak == "None" else float(peak)


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Options of a script; --help shows its docstring as it is."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def new_record(
    script: str, packages: Iterable[str], arguments: Sequence[str] | None = None
) -> dict[str, Any]:
    """The head of a record: command, date, CPU, Python, versions."""
    command = " ".join([f"benchmarks/{script}.py", *(sys.argv[1:] if arguments is None else arguments)])
    return {"command": command, **describe_machine(packages)}


def save(record: Mapping[str, Any], *name: str, out: Path | None = None, machine: str | None = None) -> Path:
    """Write the record to `out`, by default into the ledger under `name`, machine and month."""
    path = out or LEDGER / record_name(*name, machine=machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(record, path)
    return path


def export_small(bundle: Path) -> Path:
    """Export three blocks of width 128, random weights, in another process: torch stays out of this one."""
    program = (
        "import sys; from pathlib import Path; from tests.support.tiny_models import export_tiny; "
        "export_tiny(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", program, str(bundle)], check=True)
    return bundle


def synthetic_image(seed: int, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """Coarse noise enlarged to `size` (width, height): structure that a JPEG keeps."""
    rows, columns = (6, 8) if size[1] < 100 else (12, 16)
    coarse = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def start_dinodeploy(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """`dinodeploy` in its own process, with its stdout to read."""
    command = [sys.executable, "-m", "dinodeploy.cli.app", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
