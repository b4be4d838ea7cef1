"""Metrics as TensorBoard scalars, in <output>/tensorboard."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"


class Scalars:
    """Writes nothing without `wanted`, or if TensorBoard is not installed (prints a note)."""

    def __init__(self, folder: Path, start: int, *, wanted: bool = True) -> None:
        self.writer: Any = None
        if not wanted:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print(
                "note: TensorBoard is not installed (pip install 'dinodeploy[train]'); "
                "train.tensorboard=false hides this note",
                file=sys.stderr,
            )
            return
        self.writer = SummaryWriter(
            str(folder / FOLDER), purge_step=start
        )  # hides what an interrupted run wrote from `start` on

    def write(self, record: Mapping[str, Any]) -> None:
        """Write every number of a record at its iteration."""
        if self.writer is None:
            return
        for name, value in record.items():
            if name != "iteration":
                self.writer.add_scalar(name, value, record["iteration"])
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
