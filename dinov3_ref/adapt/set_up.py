"""The head and the objective of a task, from the names of its classes or values and facts of the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dinov3_ref.adapt.objectives import (
    Classify,
    MultiLabel,
    Objective,
    Regress,
    Segment,
    class_weights,
    positive_weights,
)
from dinov3_ref.adapt.options import FineTuneOptions
from dinov3_ref.checkpoints import Checkpoint
from dinov3_ref.heads import Head, LinearClassifier, LinearRegressor, LinearSegmenter, MultiLabelClassifier


@dataclass(frozen=True)
class Facts:
    """Of the training targets. counts [K]: images or pixels of each class, positives of several classes.

    total: number of images. mean, std [K]: of values, unless there are classes.
    """

    counts: Sequence[float] = ()
    total: int = 0
    mean: Sequence[float] = ()
    std: Sequence[float] = ()


def set_up(
    checkpoint: Checkpoint, names: Sequence[str], options: FineTuneOptions, facts: Facts
) -> tuple[Head, Objective]:
    """A new head, the same for the same seed, and the objective. names: of the K classes or values."""
    D, K, pooling = checkpoint.config.embed_dim, len(names), options.pooling
    classes, smoothing = tuple(names), options.label_smoothing
    counts = torch.tensor(facts.counts, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        if options.task == "classify":
            weights = class_weights(counts) if options.balanced else None
            return LinearClassifier(D, K, pooling, classes), Classify(weights, smoothing)  # type: ignore[arg-type]
        if options.task == "multilabel":
            weights = positive_weights(counts, facts.total) if options.balanced else None
            several = MultiLabelClassifier(D, K, pooling, classes=classes)  # type: ignore[arg-type]
            return several, MultiLabel(weights, smoothing)
        if options.task == "segment":
            weights = class_weights(counts) if options.balanced else None
            stride = checkpoint.config.stride
            return LinearSegmenter(D, K, patch_size=stride, classes=classes), Segment(weights, smoothing)
        values = LinearRegressor(D, K, pooling, classes)  # type: ignore[arg-type]
    std = torch.tensor(facts.std, dtype=torch.float32).clamp(min=1e-12)
    values.mean.copy_(torch.tensor(facts.mean, dtype=torch.float32))
    values.std.copy_(std)
    return values, Regress(std)


def with_thresholds(head: MultiLabelClassifier, thresholds: Sequence[float]) -> MultiLabelClassifier:
    """The same head with other thresholds [K]."""
    made = MultiLabelClassifier(**{**head.config(), "thresholds": tuple(thresholds)}, classes=head.classes)
    made.load_state_dict(head.state_dict())
    return made.to(head.linear.weight.device)
