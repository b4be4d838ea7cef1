"""Benchmark records as JSON files, written atomically; the name tells what, where and in which month."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dinodeploy.errors import MisuseError
from dinodeploy.files.atomic import atomic_file
from dinodeploy.hardware.devices import cpu_name


def check_record_path(path: Path) -> None:
    """Check the path before anything is measured. Raises MisuseError for one that cannot be written."""
    if path.suffix.lower() != ".json":
        raise MisuseError(f"{path}: {path.suffix or 'no suffix'!r}; wanted a file that ends in .json")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise MisuseError(f"{path}: cannot be written there; wanted a file in a folder that exists")


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Write or replace the file."""
    with atomic_file(path) as file:
        file.write(json.dumps(record, indent=1, allow_nan=False).encode() + b"\n")


def record_name(*parts: str, machine: str | None = None) -> str:
    """`parts`, machine, month: `cpu_vit_small_fp32_x86-64-amd-epyc-avx2_202612.json`.

    The machine is the CPU by default, with its instructions: they decide more than its name.
    """
    place = re.sub(r"[^a-z0-9]+", "-", (machine or cpu_name()).lower()).strip("-")
    return "_".join([*parts, place, f"{datetime.now(timezone.utc):%Y%m}"]) + ".json"


def describe_machine(packages: Iterable[str]) -> dict[str, Any]:
    """Date, CPU, Python and versions of those `packages` that are installed: the head of every record."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    versions = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "versions": versions,
    }
