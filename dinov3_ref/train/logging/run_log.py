"""The log of a run, written by rank 0: configuration, metrics, evaluations, TensorBoard, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dinov3_ref.atomic import append, replacing
from dinov3_ref.json_file import parse_json
from dinov3_ref.train.logging.trackers import Tracker, open_trackers

CONFIG_FILE = "config.yaml"
EVALUATIONS = "evaluations.json"
METRICS = "training_metrics.json"  # the official name; one record per line
TENSORBOARD = "tensorboard"  # folder
SHOWN_METRICS = ("total_loss", "lr", "images_per_second", "data_share")


class MetricsFile:
    """Appends records to a file in `folder`; drops existing records of iteration `start` and later."""

    def __init__(self, folder: Path, start: int, file: str = METRICS) -> None:
        self.path = folder / file
        kept = [record for record in read_metrics(folder, file) if record["iteration"] < start]
        with replacing(self.path) as draft:
            draft.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line and flush it to disk."""
        append(self.path, json.dumps(record) + "\n")


def read_metrics(folder: Path, file: str = METRICS) -> list[dict[str, Any]]:
    """The records of a run; an incomplete last line is ignored."""
    path = folder / file
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [parse_json(line, str(path), "line") for line in lines if line.endswith("\n")]


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
        # purge_step hides what an interrupted run wrote from `start` on
        self.writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=start)

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
        from rich import progress
        from rich.console import Console

        self.bar = progress.Progress(
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.description}"),
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


class RunLog:
    """Opens the log in `config.train.output_dir`; drops records of iteration `start` and later."""

    def __init__(self, config: Any, start: int, total_iterations: int, name: str = "") -> None:
        folder = Path(config.train.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / CONFIG_FILE)
        self.metrics = MetricsFile(folder, start)
        self.evaluations = MetricsFile(folder, start, EVALUATIONS)
        described = OmegaConf.to_container(config, resolve=True)
        assert isinstance(described, dict)
        self.trackers: list[Tracker] = [
            Scalars(folder, start, wanted=config.train.tensorboard),
            *open_trackers(list(config.train.trackers), folder, described),  # type: ignore[arg-type]
        ]
        self.progress = Progress(start, total_iterations, name)

    def record(self, record: Mapping[str, Any]) -> None:
        """Log the metrics of one iteration."""
        self.metrics.append(record)
        self._track(record)
        self.progress.show(record)

    def evaluated(self, iteration: int, accuracies: Mapping[str, float]) -> None:
        """Log the result of an evaluation; its file already has it."""
        self._track({"iteration": iteration, **accuracies})
        text = "  ".join(f"{name} {value:.2f}" for name, value in accuracies.items())
        self.progress.log(f"{iteration + 1}: {text or 'images drawn'}")

    def _track(self, record: Mapping[str, Any]) -> None:
        for tracker in self.trackers:
            tracker.write(record)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()
        self.progress.close()
