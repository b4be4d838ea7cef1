"""What the first rank writes down of a run: configuration, metrics, evaluations; for files and for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dinov3_ref.train.logging.evaluation import FILE as EVALUATIONS
from dinov3_ref.train.logging.metrics import MetricsFile
from dinov3_ref.train.logging.progress import Display
from dinov3_ref.train.logging.tensorboard import Scalars

CONFIG_FILE = "config.yaml"


class RunLog:
    """Opens `config.train.output_dir`; what an interrupted run wrote of `start` and later is dropped.

    name: of one student among several.
    """

    def __init__(self, config: Any, start: int, total_iterations: int, name: str = "") -> None:
        folder = Path(config.train.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / CONFIG_FILE)
        self.metrics = MetricsFile(folder, start)
        self.evaluations = MetricsFile(folder, start, EVALUATIONS)
        self.scalars = Scalars(folder, start, wanted=config.train.tensorboard)
        self.display = Display(start, total_iterations, name)

    def record(self, record: Mapping[str, Any]) -> None:
        """The metrics of an iteration."""
        self.metrics.append(record)
        self.scalars.write(record)
        self.display.show(record)

    def evaluated(self, iteration: int, accuracies: Mapping[str, float]) -> None:
        """What an evaluation found; its file has it already."""
        self.scalars.write({"iteration": iteration, **accuracies})
        words = "  ".join(f"{name} {value:.2f}" for name, value in accuracies.items())
        self.display.say(f"{iteration + 1}: {words}" if words else f"{iteration + 1}: pictures drawn")

    def close(self) -> None:
        self.scalars.close()
        self.display.close()
