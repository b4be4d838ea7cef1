"""What training gets and gives: options, the trained head as a file, and a report.

The file format is described in `dinov3_ref/heads/files.py`, which reads it; writing it needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.manifest import canonical
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.files.tensors import save_tensors
from dinodeploy.heads.features import Features
from dinodeploy.heads.fit import BALANCES, Balance, Fitted
from dinodeploy.heads.labelled import Split

Log = Callable[[str], None]

TASKS = ("classify", "segment")
POOLINGS = ("cls", "cls_mean")

FORMAT = 1
METADATA_KEY = "dinodeploy.head"
LICENCE = "trained by dinodeploy train-head: the licence is up to the owner of the images"


@dataclass(frozen=True)
class TrainOptions:
    """Options of training. Raises MisuseError for an unknown value."""

    task: str
    pooling: str = "cls_mean"
    balance: Balance = "balanced"
    seed: int = 0
    cache: Path | None = None  # folder for features; None: no cache

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--task", self.task, TASKS),
            ("--pooling", self.pooling, POOLINGS),
            ("--class-weight", self.balance, BALANCES),
        ):
            if value not in known:
                raise MisuseError(f"{option} {value!r}; wanted one of {', '.join(known)}")


@dataclass(frozen=True)
class HeadFile:
    """The contents of a head file."""

    kind: str  # linear_classifier | linear_segmenter
    config: Mapping[str, Any]
    tensors: Mapping[str, FloatArray]
    classes: Sequence[str]
    backbone_sha256: str
    trained: Mapping[str, Any] = field(default_factory=dict)
    licence: str = LICENCE

    def write(self, path: Path) -> None:
        """Write the file atomically; the same head gives the same bytes."""
        about = {
            "format": FORMAT,
            "kind": self.kind,
            "config": dict(self.config),
            "classes": list(self.classes),
            "backbone_sha256": self.backbone_sha256,
            "licence": self.licence,
            "trained": json.loads(canonical(dict(self.trained))),
        }
        save_tensors(path, self.tensors, {METADATA_KEY: json.dumps(about, sort_keys=True)})


@dataclass(frozen=True)
class Trained:
    """A trained head, its measured quality, and the images that could not be used: (id, reason)."""

    file: HeadFile
    report: dict[str, Any]
    quarantined: tuple[tuple[str, str], ...] = ()


def report_of(
    task: str,
    classes: Sequence[str],
    split: Split,
    tests: int,
    scores: Mapping[str, Any],
    fitted: Fitted,
    found: Features,
) -> dict[str, Any]:
    """The report of a training, as JSON holds it. tests: number of test images."""
    return {
        "task": task,
        "classes": list(classes),
        "pictures": {"train": len(split.train), "validation": len(split.validation), "test": tests},
        **scores,
        "l2": fitted.l2,
        "tried": [{"l2": l2, "validation": score} for l2, score in fitted.tried],
        "features_cached": found.cached,
    }


def head_file(
    kind: str,
    config: dict[str, Any],
    tensors: dict[str, Any],
    embedder: Embedder,
    report: dict[str, Any],
) -> HeadFile:
    """A head file for the backbone of `embedder`, with the main scores of the report."""
    kept = ("pictures", "accuracy", "balanced_accuracy", "chance", "mean_iou", "l2")
    trained = {key: report[key] for key in kept if key in report}
    trained["engine"] = embedder.engine.fingerprint(embedder.preprocess)
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
    return HeadFile(kind, config, arrays, report["classes"], embedder.manifest.model.sha256, trained)
