"""The log of a run, written by rank 0: configuration, metrics, evaluations, TensorBoard, progress."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dinov3_ref.train.logging.evaluation import FILE as EVALUATIONS
from dinov3_ref.train.logging.metrics import MetricsFile
from dinov3_ref.train.logging.progress import Progress
from dinov3_ref.train.logging.tensorboard import Scalars

CONFIG_FILE = "config.yaml"


class RunLog:
    """Opens the log in `config.train.output_dir`; drops records of iteration `start` and later.

    name: of one student among several.
    """

    def __init__(self, config: Any, start: int, total_iterations: int, name: str = "") -> None:
        folder = Path(config.train.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / CONFIG_FILE)
        self.metrics = MetricsFile(folder, start)
        self.evaluations = MetricsFile(folder, start, EVALUATIONS)
        self.scalars = Scalars(folder, start, wanted=config.train.tensorboard)
        self.progress = Progress(start, total_iterations, name)

    def record(self, record: Mapping[str, Any]) -> None:
        """Log the metrics of one iteration."""
        self.metrics.append(record)
        self.scalars.write(record)
        self.progress.show(record)

    def evaluated(self, iteration: int, accuracies: Mapping[str, float]) -> None:
        """Log the result of an evaluation; its file already has it."""
        self.scalars.write({"iteration": iteration, **accuracies})
        text = "  ".join(f"{name} {value:.2f}" for name, value in accuracies.items())
        self.progress.log(f"{iteration + 1}: {text or 'images drawn'}")

    def close(self) -> None:
        self.scalars.close()
        self.progress.close()
