"""Logistic regression on frozen features: a sweep of C with L-BFGS (docs/spec.md 5.3).

    python -m dinov3_ref.eval.logistic --weights model.safetensors --train digits/train --test digits/test
    python -m dinov3_ref.eval.logistic --train train.npz --test test.npz

The features are CLS tokens as they are. Each of 45 values of C is fitted on the training images and scored on
--val, by default a tenth of the images of each class; the best is fitted again on both and tested. With --out
the classifier is written as head.safetensors, for `dinodeploy export --head`.

The objective is that of scikit-learn's LogisticRegression with an L2 penalty, in float64:

    C · Σ_i loss(x_i W + b, y_i) + ||W||² / 2        softmax; for images with several classes, a sigmoid each

Shapes: N images, D width of the features, K classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, pstdev

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3_ref.errors import DataError
from dinov3_ref.eval.arrays import load_labelled
from dinov3_ref.eval.command import (
    OpenModel,
    Results,
    add_common_options,
    add_few_shot_options,
    extract_features,
    note,
    open_checkpoint,
    open_dataset,
    over_tries,
    prefix_of,
    run_command,
)
from dinov3_ref.eval.features import Frozen, choose_device, cls_features
from dinov3_ref.eval.knn import read_sets
from dinov3_ref.eval.labelled import Labelled, few_shot, renumber, split_off
from dinov3_ref.eval.metrics import accuracy, mean_average_precision
from dinov3_ref.heads import LinearClassifier, MultiLabelClassifier, save_head

RESULTS = "results-logistic.csv"
HEAD = "head.safetensors"
CS = tuple((10 ** torch.linspace(-6, 5, 45, dtype=torch.float64)).tolist())
MAX_STEPS = 1000
TOLERANCE = 1e-15  # of the change of the mean objective; scikit-learn gets as close
GRADIENT = 1e-10  # largest entry of its gradient
HISTORY = 10  # of L-BFGS, as in scipy
VALIDATION, VALIDATION_FEW = 0.1, 0.01  # share of each class without --val; with few-shot
LICENCE = "trained by dinov3_ref.eval.logistic: the licence is up to the owner of the images"


@dataclass(frozen=True, eq=False)
class Logistic:
    """A fitted regression: weight [D,K], bias [K], float64."""

    weight: Tensor
    bias: Tensor

    def scores(self, x_ND: Tensor) -> Tensor:
        """Logits [N,K]."""
        return x_ND.to(self.weight) @ self.weight + self.bias


def fit_logistic(
    x_ND: Tensor, labels: Tensor, classes: int, c: float, start: Logistic | None = None
) -> Logistic:
    """The optimum for one C. start: another fit to begin from, which saves steps; the optimum is the same.

    labels: long [N], or bool [N,K] for several classes per image.
    """
    x_ND = x_ND.double()
    count, width = x_ND.shape
    weight = torch.zeros(width, classes, dtype=torch.float64, device=x_ND.device)
    bias = torch.zeros(classes, dtype=torch.float64, device=x_ND.device)
    if start is not None:
        weight, bias = start.weight.clone(), start.bias.clone()
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    steps = torch.optim.LBFGS(
        parameters,
        max_iter=MAX_STEPS,
        max_eval=2 * MAX_STEPS,
        tolerance_grad=GRADIENT,
        tolerance_change=TOLERANCE,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        steps.zero_grad()
        logits = x_ND @ weight + bias
        if labels.ndim == 1:
            loss = F.cross_entropy(logits, labels, reduction="sum")
        else:
            loss = F.binary_cross_entropy_with_logits(logits, labels.double(), reduction="sum")
        total = (loss + weight.square().sum() / (2 * c)) / count
        total.backward()
        return total

    steps.step(objective)
    return Logistic(weight.detach(), bias.detach())


def sweep(
    train: Labelled, validation: Labelled, cs: Sequence[float] = CS, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """(best C, its score on `validation` in per cent): top-1, or mAP for several classes per image.

    Each fit begins from that of the next smaller C. Of equal scores the smallest C wins.
    """
    x_ND, labels = train.features.to(device), train.labels.to(device)
    held_out = renumber(validation.labels, validation.class_names, train.class_names).to(device)
    best, fitted = (cs[0], -1.0), None
    for c in sorted(cs):
        fitted = fit_logistic(x_ND, labels, len(train.class_names), c, fitted)
        scores = fitted.scores(validation.features.to(device))
        if held_out.ndim == 1:
            score = accuracy(scores, held_out)["top1"]
        else:
            score = mean_average_precision(scores, held_out)["mAP"]
        note(f"C {c:.3g}: {score:.2f}")
        if score > best[1]:
            best = (c, score)
    return best


# ---- the command --------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m dinov3_ref.eval.logistic", description=__doc__.splitlines()[0]
    )
    add_common_options(made)
    made.add_argument(
        "--resize", type=int, help="short side before the crop, in pixels; default: --size, no border is cut"
    )
    made.add_argument("--val", help="labelled data that chooses C; default: a tenth of --train")
    made.add_argument("--C", type=float, nargs="+", help="values of C; default: 45 from 1e-6 to 1e5")
    made.add_argument("--seed", type=int, default=0, help="seed of the validation split (%(default)s)")
    add_few_shot_options(made)
    return made


def evaluate(options: argparse.Namespace, open_model: OpenModel = open_checkpoint) -> Results:
    """Run the command. Raises `Dinov3Error`."""
    cs = tuple(options.C or CS)
    if min(cs) <= 0:
        raise DataError(f"--C {min(cs):g}; wanted numbers above 0")
    options.resize = options.resize or options.size
    frozen = open_model(options)
    train, tests = read_sets(options, frozen)
    device = choose_device(options.device or "cpu") if frozen is None else frozen.device
    few = options.shots is not None
    if options.val:
        validation = _read_validation(options, frozen)
    else:
        kept, held = split_off(train.labels, VALIDATION_FEW if few else VALIDATION, options.seed)
        if not len(held):
            raise DataError(f"'{train.source}' has one image per class, none to choose C on; give --val")
        train, validation = train.rows(kept), train.rows(held)
    subsets = [train]
    if few:
        subsets = [few_shot(train, options.shots, number) for number in range(options.tries)]
    runs = []
    for subset in subsets:
        c, _ = sweep(subset, validation, cs, device)
        final = subset if few else _joined(subset, validation)
        fit = partial(fit_logistic, classes=len(train.class_names), c=c)
        runs.append((c, fit(final.features.to(device), final.labels.to(device))))
    results: Results = {"C": mean(c for c, _ in runs)}
    if len(runs) > 1:
        results["C std"] = pstdev(c for c, _ in runs)
    for test in tests:
        scores = [test.judge(fitted.scores(test.features.to(device)).cpu()) for _, fitted in runs]
        results |= over_tries(scores, prefix_of(test, tests))
    if options.out is not None and len(runs) == 1:
        _save(options, runs[0][1], train, frozen, results)
    return results


def _read_validation(options: argparse.Namespace, frozen: Frozen | None) -> Labelled:
    if frozen is None:
        return load_labelled(options.val)
    dataset = open_dataset(options, frozen, options.val)
    return extract_features(options, frozen, dataset, options.val, cls_features)


def _joined(train: Labelled, validation: Labelled) -> Labelled:
    labels = renumber(validation.labels, validation.class_names, train.class_names)
    features = torch.cat([train.features, validation.features])
    return Labelled(features, torch.cat([train.labels, labels]), train.class_names, train.source)


def _save(
    options: argparse.Namespace, fitted: Logistic, train: Labelled, frozen: Frozen | None, results: Results
) -> None:
    """Write the classifier as a head that reads CLS."""
    width, classes = fitted.weight.shape
    kind = LinearClassifier if train.labels.ndim == 1 else MultiLabelClassifier
    head = kind(width, classes, "cls", classes=train.class_names)
    head.linear.load_state_dict({"weight": fitted.weight.T.float(), "bias": fitted.bias.float()})
    options.out.mkdir(parents=True, exist_ok=True)
    digest = "" if frozen is None else frozen.sha256
    save_head(head, options.out / HEAD, backbone_sha256=digest, licence=LICENCE, trained=dict(results))


def main() -> None:
    run_command(parser(), evaluate, RESULTS)


if __name__ == "__main__":
    main()
