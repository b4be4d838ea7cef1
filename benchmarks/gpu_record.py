"""Shared by the two GPU scripts: find the GPU, describe the machine, write the record.

The record is rewritten after every row, so an interrupted run keeps what it has.
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
    """The GPU. Without one, print so and exit with 0: there is nothing to do."""
    try:
        return find_gpu()
    except UnavailableError as error:
        print(f"{what} skipped: {error}")
        sys.exit(0)


def new_record(script: str, gpu: Gpu, arguments: list[str]) -> dict[str, Any]:
    """A record without rows."""
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
    """torch without TF32, so that fp32 on the GPU is fp32, as the reference needs."""
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
