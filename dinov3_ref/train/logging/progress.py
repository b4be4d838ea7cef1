"""What a person sees of a run, on stderr: a live bar in a terminal, else a line a record."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

SHOWN = ("total_loss", "lr", "images_per_second", "data_share")


class Display:
    """Iterations done of all, with speed, time left and a few metrics; `close` leaves the last state."""

    def __init__(self, start: int, total: int, name: str = "") -> None:
        """`name`: of one student among several; then there are lines alone, and each says whose it is."""
        self.total = total
        self.prefix = f"{name}  " if name else ""
        self.bar: Any = None
        self.task: Any = None
        if sys.stderr.isatty() and not name:
            self._open_bar(start)

    def _open_bar(self, start: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(file=sys.stderr),
        )
        self.task = self.bar.add_task("", total=self.total, completed=start)
        self.bar.start()

    def advance(self, iteration: int) -> None:
        """`iteration` is done."""
        if self.bar is not None:
            self.bar.update(self.task, completed=iteration + 1)

    def show(self, record: Mapping[str, Any]) -> None:
        """The metrics of a record."""
        words = "  ".join(f"{name} {record[name]:.4g}" for name in SHOWN)
        if self.bar is not None:
            self.bar.update(self.task, description=words)
        else:
            self.say(f"{record['iteration'] + 1}/{self.total}  {words}")

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.bar is not None:
            self.bar.console.print(line, markup=False, highlight=False)
        else:
            print(self.prefix + line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
