"""Metrics and evaluations of a run as JSON lines (docs/spec.md 4.11).

A resumed run first drops the records after its checkpoint, so the file reads like one uninterrupted run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "training_metrics.json"  # the official name; one record per line


class MetricsFile:
    """Appends records to a file in `folder`; drops existing records of iteration `start` and later."""

    def __init__(self, folder: Path, start: int, file: str = FILE) -> None:
        self.path = folder / file
        kept = [record for record in read_metrics(folder, file) if record["iteration"] < start]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        partial.replace(self.path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line and flush it to disk."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def read_metrics(folder: Path, file: str = FILE) -> list[dict[str, Any]]:
    """The records of a run; an incomplete last line is ignored."""
    path = folder / file
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
