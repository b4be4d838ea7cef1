"""What training is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.heads.features import Features
from dinodeploy.heads.fit import BALANCES, Balance, Fitted
from dinodeploy.heads.head_file import HeadFile

Say = Callable[[str], None]

TASKS = ("classify", "segment")
POOLINGS = ("cls", "cls_mean")


@dataclass(frozen=True)
class TrainOptions:
    """How to train. Validated at birth: MisuseError."""

    task: str
    pooling: str = "cls_mean"
    balance: Balance = "balanced"
    seed: int = 0
    cache: Path | None = None  # None: features are kept nowhere

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--task", self.task, TASKS),
            ("--pooling", self.pooling, POOLINGS),
            ("--class-weight", self.balance, BALANCES),
        ):
            if value not in known:
                raise MisuseError(f"{option} {value!r}; wanted one of {', '.join(known)}")


@dataclass(frozen=True)
class Trained:
    """A head, what was measured, and pictures that could not be used."""

    file: HeadFile
    report: dict[str, Any]
    quarantined: tuple[tuple[str, str], ...] = ()


def how(fitted: Fitted, found: Features) -> dict[str, Any]:
    return {
        "l2": fitted.l2,
        "tried": [{"l2": l2, "validation": score} for l2, score in fitted.tried],
        "features_cached": found.cached,
    }


def head_file(
    kind: str,
    config: dict[str, Any],
    tensors: dict[str, Any],
    classes: tuple[str, ...],
    embedder: Embedder,
    report: dict[str, Any],
) -> HeadFile:
    kept = ("pictures", "accuracy", "balanced_accuracy", "chance", "mean_iou", "l2")
    trained = {key: report[key] for key in kept if key in report}
    trained["engine"] = embedder.manifest.fingerprint(embedder.bundle.engine, embedder.preprocess)
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
    return HeadFile(kind, config, arrays, classes, embedder.manifest.model.sha256, trained)
