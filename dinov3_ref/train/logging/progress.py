"""Progress on stderr: a live bar in a terminal, otherwise one line per record."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

SHOWN_METRICS = ("total_loss", "lr", "images_per_second", "data_share")


class Progress:
    """Iterations done, speed, remaining time and a few metrics; `close` leaves the last state visible."""

    def __init__(self, start: int, total: int, name: str = "") -> None:
        """name: of one student among several; then there is no bar, and every line starts with the name."""
        self.total = total
        self.prefix = f"{name}  " if name else ""
        self.bar: Any = None  # of rich, imported only for a terminal
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
        """Tell that `iteration` is done."""
        if self.bar is not None:
            self.bar.update(self.task, completed=iteration + 1)

    def show(self, record: Mapping[str, Any]) -> None:
        """Show the metrics of a record."""
        text = "  ".join(f"{name} {record[name]:.4g}" for name in SHOWN_METRICS)
        if self.bar is not None:
            self.bar.update(self.task, description=text)
        else:
            self.log(f"{record['iteration'] + 1}/{self.total}  {text}")

    def log(self, line: str) -> None:
        """Print a permanent line."""
        if self.bar is not None:
            self.bar.console.print(line, markup=False, highlight=False)
        else:
            print(self.prefix + line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
