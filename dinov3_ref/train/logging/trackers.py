"""Send the numbers of a run to Weights & Biases or MLflow, where `train.trackers` names them.

    wandb    a run in the project of WANDB_PROJECT, default dinov3
    mlflow   a run in the experiment of MLFLOW_EXPERIMENT_NAME, where MLFLOW_TRACKING_URI says

The packages read their own environment variables. A resumed run continues the same run there.

Source: https://docs.wandb.ai/ref/python/init, https://mlflow.org/docs/latest/api_reference/python_api/mlflow.html
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from dinov3_ref.atomic import replacing
from dinov3_ref.errors import ConfigError, reason_of

PROJECT = "dinov3"
MLFLOW_RUN = "mlflow_run.txt"  # file in the run's folder: the id of its run


class Tracker(Protocol):
    """Gets every record of a run: names and numbers, and the `iteration` that they belong to."""

    def write(self, record: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


class Wandb:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.run = _package("wandb").init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.resolve().name,
            id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )

    def write(self, record: Mapping[str, Any]) -> None:
        self.run.log(numbers_of(record), step=record["iteration"])

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.mlflow = _package("mlflow")
        known = folder / MLFLOW_RUN
        if known.is_file():
            self.mlflow.start_run(run_id=known.read_text(encoding="utf-8").strip())
            return
        run = self.mlflow.start_run(run_name=folder.resolve().name)
        with replacing(known) as draft:
            draft.write_text(run.info.run_id, encoding="utf-8")
        self.mlflow.log_params({key: str(value)[:500] for key, value in flat(config).items()})

    def write(self, record: Mapping[str, Any]) -> None:
        self.mlflow.log_metrics(numbers_of(record), step=record["iteration"])

    def close(self) -> None:
        self.mlflow.end_run()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {"wandb": Wandb, "mlflow": Mlflow}


def open_trackers(names: list[str], folder: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """Open the named trackers. Raises `ConfigError` for an unknown name, and for one that cannot start."""
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise ConfigError(f"train.trackers has {unknown[0]!r}; wanted some of {', '.join(TRACKERS)}")
    return [Steady(name, folder, config) for name in names]


class Steady:
    """A tracker whose failures do not end the training: a server may be away for a while."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self.name, self.failed = name, False
        try:
            self.tracker = TRACKERS[name](folder, config)
        except ConfigError:
            raise
        except Exception as error:  # their own classes
            raise ConfigError(f"train.trackers has {name}, which cannot start: {reason_of(error)}") from error

    def write(self, record: Mapping[str, Any]) -> None:
        self._try(lambda: self.tracker.write(record))

    def close(self) -> None:
        self._try(self.tracker.close)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            if not self.failed:
                print(f"note: {self.name} fails: {reason_of(error)}; training goes on", file=sys.stderr)
            self.failed = True


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The record without its iteration."""
    return {name: float(value) for name, value in record.items() if name != "iteration"}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}} -> {"optim.lr": 1}."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        found.update(flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return found


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"train.trackers has {name}, but {error.name} is not installed: pip install {name}"
        ) from error
