"""Accuracies of class scores, in per cent (docs/spec.md 5.1, 5.2).

    accuracy        share of images whose label is among the 1 and the 5 best classes
    mean-per-class  the same for the images of each class, averaged over the classes that occur
    any-match       share of images whose best class is one of their labels (ImageNet-ReaL, arXiv:2006.07159);
                    images without a label are left out
    mean-precision  mean over the classes of the average precision, for images with several classes

Shapes: M images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Scores = dict[str, float]


def accuracy(score_MC: Tensor, label_M: Tensor) -> Scores:
    """Top-1 and top-5 accuracy."""
    return {f"top{k}": 100 * hits(score_MC, label_M, k).double().mean().item() for k in (1, 5)}


def mean_per_class(score_MC: Tensor, label_M: Tensor) -> Scores:
    """Top-1 and top-5 accuracy of each class that occurs, averaged."""
    size_C = torch.bincount(label_M, minlength=score_MC.shape[1]).double()
    found = {}
    for k in (1, 5):
        hit_C = torch.zeros_like(size_C).index_add_(0, label_M, hits(score_MC, label_M, k).double())
        found[f"mean_top{k}"] = 100 * (hit_C[size_C > 0] / size_C[size_C > 0]).mean().item()
    return found


def any_match(score_MC: Tensor, truth_MC: Tensor) -> Scores:
    """Share of images whose best class is among their labels, bool [M,C]."""
    judged_M = truth_MC.any(1)
    hit_M = truth_MC.gather(1, score_MC.argmax(1, keepdim=True)).squeeze(1)
    return {"any_match": 100 * hit_M[judged_M].double().mean().item()}


def mean_average_precision(score_MC: Tensor, truth_MC: Tensor) -> Scores:
    """Mean over the classes that occur of their average precision."""
    order_MC = score_MC.argsort(dim=0, descending=True, stable=True)
    hit_MC = truth_MC.gather(0, order_MC).double()
    rank_M1 = torch.arange(1, len(hit_MC) + 1, dtype=torch.float64, device=hit_MC.device).unsqueeze(1)
    positives_C = hit_MC.sum(0)
    precision_C = (hit_MC * hit_MC.cumsum(0) / rank_M1).sum(0) / positives_C.clamp(min=1)
    return {"mAP": 100 * precision_C[positives_C > 0].mean().item()}


def hits(score_MC: Tensor, label_M: Tensor, count: int) -> Tensor:
    """Whether the label of each row is among its `count` best classes: bool [M]."""
    best = score_MC.topk(min(count, score_MC.shape[1])).indices
    return (best == label_M.unsqueeze(1)).any(1)


# name -> (function, whether it reads labels bool [M,C])
METRICS: dict[str, tuple[Callable[[Tensor, Tensor], Scores], bool]] = {
    "accuracy": (accuracy, False),
    "mean-per-class": (mean_per_class, False),
    "any-match": (any_match, True),
    "mean-precision": (mean_average_precision, True),
}
TITLES = {
    "top1": "Top 1",
    "top5": "Top 5",
    "mean_top1": "Top 1 per class",
    "mean_top5": "Top 5 per class",
    "any_match": "Any match",
    "mAP": "mAP",
}
