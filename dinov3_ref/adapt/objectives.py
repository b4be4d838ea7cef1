"""The loss and the scores of each task.

    classify    cross entropy                 balanced accuracy (mean recall of the classes that occur)
    multilabel  binary cross entropy          mean average precision over the classes that occur
    segment     cross entropy of each pixel   mean intersection over union
    regress     smooth L1 of standardised     mean coefficient of determination, R2
                targets

Shapes: B images, K classes or values, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255  # of masks
MOST = 20.0  # largest weight of a rare class: a class of two pixels must not decide every step
THRESHOLD = 0.5


class Objective(Protocol):
    """metric: the score that chooses the best weights; larger is better."""

    metric: str

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """A scalar, in float32."""

    def tally(self) -> Tally:
        """A new tally of scores."""


class Tally(Protocol):
    """Adds up outputs and targets of batches."""

    def update(self, output: Tensor, target: Tensor) -> None: ...
    def scores(self) -> dict[str, float]: ...


# ---- classes ------------------------------------------------------------------------------------


@dataclass
class Classify:
    """Logits [B,K], classes [B]. weights: of the classes [K], or None."""

    weights: Tensor | None = None
    smoothing: float = 0.0
    metric = "balanced_accuracy"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        weights = None if self.weights is None else self.weights.to(output.device)
        return F.cross_entropy(output.float(), target, weights, label_smoothing=self.smoothing)

    def tally(self) -> Tally:
        return ClassTally()


@dataclass
class Segment:
    """Logits [B,K,H,W], class ids [B,H,W] with IGNORE for no class."""

    weights: Tensor | None = None
    smoothing: float = 0.0
    metric = "mean_iou"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        weights = None if self.weights is None else self.weights.to(output.device)
        if bool((target == IGNORE).all()):
            return output.sum() * 0.0  # a crop without a class: the mean over no pixel would be NaN
        return F.cross_entropy(
            output.float(), target, weights, ignore_index=IGNORE, label_smoothing=self.smoothing
        )

    def tally(self) -> Tally:
        return ClassTally(dense=True)


@dataclass
class ClassTally:
    """The confusion matrix [K,K] of images or pixels: rows are true classes."""

    counts: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    dense: bool = False

    def update(self, output: Tensor, target: Tensor) -> None:
        K = output.shape[1]
        there = target != IGNORE if target.ndim > 1 else torch.ones_like(target, dtype=torch.bool)
        cells = target[there] * K + output.argmax(dim=1)[there]
        found = torch.bincount(cells, minlength=K * K).view(K, K)
        self.counts = found if self.counts.numel() == 0 else self.counts + found

    def scores(self) -> dict[str, float]:
        counts = self.counts.double()
        right, true, chosen = counts.diag(), counts.sum(1), counts.sum(0)
        union = true + chosen - right
        scores = {
            "accuracy": float(right.sum() / true.sum()),
            "balanced_accuracy": float((right / true)[true > 0].mean()),
        }
        return {"mean_iou": float((right / union)[union > 0].mean()), **scores} if self.dense else scores


# ---- several classes per image ------------------------------------------------------------------


@dataclass
class MultiLabel:
    """Logits [B,K], targets 0 or 1 [B,K]. weights: of the positives [K], or None."""

    weights: Tensor | None = None
    smoothing: float = 0.0
    metric = "mean_average_precision"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        weights = None if self.weights is None else self.weights.to(output.device)
        soft = target * (1 - self.smoothing) + self.smoothing / 2
        return F.binary_cross_entropy_with_logits(output.float(), soft, pos_weight=weights)

    def tally(self) -> ValueTally:
        return MultiLabelTally()


@dataclass
class ValueTally:
    """Keeps all outputs and targets [B,K]."""

    outputs: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)

    def update(self, output: Tensor, target: Tensor) -> None:
        self.outputs.append(output)
        self.targets.append(target)

    def both(self) -> tuple[Tensor, Tensor]:
        """Outputs and targets [N,K] in float64."""
        return torch.cat(self.outputs).double(), torch.cat(self.targets).double()

    def scores(self) -> dict[str, float]:
        raise NotImplementedError


class MultiLabelTally(ValueTally):
    def scores(self) -> dict[str, float]:
        logits, truth = self.both()
        occurs = truth.sum(0) > 0
        precision = average_precision(logits, truth)[occurs].mean()
        chosen = logits > 0
        hits = (chosen & (truth > 0)).sum(0)
        f1 = 2 * hits / (chosen.sum(0) + truth.sum(0)).clamp(min=1)
        return {"mean_average_precision": float(precision), "f1": float(f1[occurs].mean())}


def average_precision(scores: Tensor, truth: Tensor) -> Tensor:
    """Sum of (recall_n - recall_{n-1}) · precision_n over the distinct scores: [N,K], [N,K] -> [K].

    Source: https://scikit-learn.org/stable/modules/generated/sklearn.metrics.average_precision_score.html
    """
    ordered, order = scores.sort(dim=0, descending=True, stable=True)
    hits = truth.gather(0, order).cumsum(0)
    ranks = torch.arange(1, len(scores) + 1, dtype=scores.dtype, device=scores.device)[:, None]
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[:-1] != ordered[1:]  # equal scores are taken together
    found = []
    for k in range(scores.shape[1]):
        recalled, precision = hits[last[:, k], k], (hits / ranks)[last[:, k], k]
        gained = recalled.diff(prepend=recalled.new_zeros(1))
        found.append((gained * precision).sum() / hits[-1, k].clamp(min=1))
    return torch.stack(found)


def best_thresholds(logits: Tensor, truth: Tensor) -> tuple[float, ...]:
    """The probability of each class from which its F1 is the largest: [N,K], [N,K] -> K numbers.

    Halfway between two scores; THRESHOLD for a class that does not occur or always does.
    """
    chances, thresholds = torch.sigmoid(logits.double()), []
    for k in range(chances.shape[1]):
        ordered, order = chances[:, k].sort(descending=True, stable=True)
        hits = truth[order, k].cumsum(0)
        if hits[-1] == 0 or hits[-1] == len(hits):
            thresholds.append(THRESHOLD)
            continue
        f1 = 2 * hits / (torch.arange(1, len(hits) + 1) + hits[-1])
        f1[:-1][ordered[:-1] == ordered[1:]] = -1  # equal scores cannot be cut apart
        best = int(f1.argmax())
        below = float(ordered[best + 1]) if best + 1 < len(ordered) else 0.0
        thresholds.append(min(max((float(ordered[best]) + below) / 2, 1e-6), 1 - 1e-6))
    return tuple(thresholds)


# ---- numbers ------------------------------------------------------------------------------------


@dataclass
class Regress:
    """Values [B,K]; std [K] of the training targets makes the values of one image comparable."""

    std: Tensor
    metric = "r2"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        std = self.std.to(output.device)
        return F.smooth_l1_loss(output.float() / std, target.float() / std)

    def tally(self) -> Tally:
        return RegressTally()


class RegressTally(ValueTally):
    def scores(self) -> dict[str, float]:
        values, truth = self.both()
        errors = values - truth
        varies = truth.var(0, unbiased=False)
        r2 = 1 - errors.square().mean(0) / varies.clamp(min=1e-12)
        rmse = errors.square().mean().sqrt()
        return {"r2": float(r2.mean()), "mae": float(errors.abs().mean()), "rmse": float(rmse)}


def class_weights(counts: Sequence[int] | Tensor) -> Tensor:
    """Weights [K] with which every class counts equally, at most MOST times the smallest; mean 1."""
    counts = torch.as_tensor(counts).double()
    weights = counts.sum() / counts.clamp(min=1)
    weights = torch.where(counts > 0, weights, torch.zeros_like(weights))
    smallest = weights[weights > 0].min()
    weights = weights.clamp(max=float(MOST * smallest))
    return (weights / weights[weights > 0].mean()).float()


def positive_weights(positives: Tensor, total: int) -> Tensor:
    """Weights [K] of positives against negatives, from 1 / MOST to MOST. positives: their number [K]."""
    positives = positives.double()
    return ((total - positives) / positives.clamp(min=1)).clamp(1 / MOST, MOST).float()
