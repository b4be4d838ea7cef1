"""Records of a run, of its metrics and of its evaluations: one JSON object a line (docs/spec.md 4.11).

A resumed run drops the lines past its checkpoint, so that the file always tells of one uninterrupted run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "training_metrics.json"  # the official name, with a line a record


class MetricsFile:
    """Appends records to `folder`'s file; drops those that an interrupted run left of `start` and later."""

    def __init__(self, folder: Path, start: int, file: str = FILE) -> None:
        self.path = folder / file
        kept = [record for record in read_metrics(folder, file) if record["iteration"] < start]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        partial.replace(self.path)

    def append(self, record: Mapping[str, Any]) -> None:
        """One line, on the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def read_metrics(folder: Path, file: str = FILE) -> list[dict[str, Any]]:
    """The records of a run; a last line that was cut short does not count."""
    path = folder / file
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
