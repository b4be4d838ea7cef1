"""What the two GPU scripts share: is there a GPU, what is the machine, where does the record go.

Records are written anew after every row: a run that is cut off leaves what it had found.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dinodeploy.errors import UnavailableError
from dinodeploy.files.atomic import atomic_file
from dinodeploy.hardware.devices import Gpu, cpu_name, find_gpu

LEDGER = Path(__file__).parent / "ledger"
PACKAGES = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt_rtx",
    "cuda-bindings",
    "numpy",
)


def gpu_or_exit(what: str) -> Gpu:
    """The GPU. Without one that is said, and the script ends well: there is nothing it could do."""
    try:
        return find_gpu()
    except UnavailableError as error:
        print(f"{what} skipped: {error}")
        sys.exit(0)


def new_record(script: str, gpu: Gpu, arguments: list[str]) -> dict[str, Any]:
    """The head of a record; the rows follow."""
    now = datetime.now(timezone.utc)
    return {
        "command": " ".join([f"benchmarks/{script}.py", *arguments]),
        "date": now.date().isoformat(),
        "gpu": asdict(gpu),
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "versions": {package: found for package in PACKAGES if (found := _version(package))},
        "rows": [],
    }


def record_path(script: str, gpu: Gpu, folder: Path = LEDGER) -> Path:
    """ledger/<script>_<gpu>_<yyyymm>.json"""
    name = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    return folder / f"{script}_{name}_{datetime.now(timezone.utc):%Y%m}.json"


def write_record(record: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(json.dumps(record, indent=1, allow_nan=False).encode() + b"\n")


@contextmanager
def torch_fp32() -> Iterator[Any]:
    """torch with fp32 that means fp32 on a GPU, as the reference wants it."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield torch
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
