"""k nearest neighbours on frozen features (docs/spec.md 5.1).

    python -m dinov3_ref.eval.knn --weights model.safetensors --train digits/train --test digits/test
    python -m dinov3_ref.eval.knn --train train.npz --test test.npz
    torchrun --nproc-per-node 8 -m dinov3_ref.eval.knn --weights ... each rank takes its share of the pictures

With --weights, --train and --test are labelled datasets (a folder with a folder for each class, a list, tar
shards, tables); without, embeddings that lie in files (`arrays.py`), such as a bundle's. Where pictures have
several classes each, the result is the mean average precision.

Shapes: N training, M test features, K = max(ks) neighbours, D width, C classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import mean, pstdev

import torch
from torch import Tensor

from dinov3_ref.distributed import all_reduce_sum, gather_shares
from dinov3_ref.errors import DataError
from dinov3_ref.eval.arrays import load_labelled
from dinov3_ref.eval.command import (
    Results,
    add_common_options,
    extract_features,
    note,
    open_datasets,
    run_command,
)
from dinov3_ref.eval.features import FrozenModel, cls_features
from dinov3_ref.eval.labelled import Labelled, check_pair, renumber
from dinov3_ref.eval.neighbours import nearest
from dinov3_ref.train.distributed.devices import launched_device

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07
TITLES = {"top1": "Top 1", "top5": "Top 5", "mAP": "mAP"}  # in a command's results

Accuracies = dict[int, dict[str, float]]


def knn_accuracy(
    train: Labelled,
    test: Labelled,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    skip_first: bool = False,
) -> Accuracies:
    """{k: {"top1", "top5"}} in per cent, every test picture counting alike; {k: {"mAP"}} for several labels.

    Similarity is the cosine. The K nearest neighbours weigh softmax(similarity / temperature), taken once
    over all K; a class scores what its members among the first k weigh. skip_first: leave out the nearest
    one, for a test set that is part of the training set. In a process group `train` and `test` are this
    rank's shares, and the result is that of all. Raises `DataError` for a k larger than the training set.
    """
    check_pair(train.class_names, train.source, test.class_names, test.source)
    count, available = max(ks) + skip_first, int(all_reduce_sum(torch.tensor(len(train))))
    if min(ks) < 1 or count > available:
        raise DataError(
            f"k of {max(ks)} wants {count} training pictures, '{train.source}' has {available}; use a "
            "smaller k"
        )
    truth = gather_shares(renumber(test.labels, test.class_names, train.class_names))
    scores: dict[int, list[Tensor]] = {k: [] for k in ks}
    for similarity_MK, labels in nearest(train, gather_shares(test.features), count):
        weight_MK = torch.softmax(similarity_MK[:, skip_first:] / temperature, dim=1)
        labels = labels[:, skip_first:]
        for k in ks:
            scores[k].append(class_scores(weight_MK[:, :k], labels[:, :k], len(train.class_names)))
    judge = _hits if truth.ndim == 1 else _mean_average_precision
    return {k: judge(torch.cat(found), truth) for k, found in scores.items()}


def class_scores(weight_MK: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Weights of neighbours, added up by their class, [M,C]; labels [M,K], or bool [M,K,C]."""
    if labels.ndim == 3:
        return (weight_MK.unsqueeze(-1) * labels).sum(1)
    return weight_MK.new_zeros(len(weight_MK), classes).scatter_add_(1, labels, weight_MK)


def _hits(score_MC: Tensor, truth_M: Tensor) -> dict[str, float]:
    """Whether the class is the first, and among the first five, in per cent."""
    hit_M5 = score_MC.topk(min(5, score_MC.shape[1])).indices == truth_M.unsqueeze(1)
    places = hit_M5.double()
    return {"top1": 100 * places[:, 0].mean().item(), "top5": 100 * places.sum(1).mean().item()}


def _mean_average_precision(score_MC: Tensor, truth_MC: Tensor) -> dict[str, float]:
    """Mean over the classes that occur of the mean precision at each of their pictures, in per cent."""
    order_MC = score_MC.argsort(dim=0, descending=True, stable=True)
    hit_MC = truth_MC.gather(0, order_MC).double()
    rank_M1 = torch.arange(1, len(hit_MC) + 1, dtype=torch.float64).unsqueeze(1)
    positives_C = hit_MC.sum(0)
    precision_C = (hit_MC * hit_MC.cumsum(0) / rank_M1).sum(0) / positives_C.clamp(min=1)
    return {"mAP": 100 * precision_C[positives_C > 0].mean().item()}


def few_shot(train: Labelled, shots: float, seed: int) -> Labelled:
    """Some pictures of each class, drawn at random: `shots` of them, or that share of them below 1.

    Raises `DataError` where pictures have several classes.
    """
    if train.labels.ndim > 1:
        raise DataError(
            f"'{train.source}' has several classes a picture; few-shot wants one, leave --shots out"
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for number in range(len(train.class_names)):
        own = (train.labels == number).nonzero().flatten()
        count = int(shots) if shots >= 1 else max(1, round(shots * len(own)))
        chosen.append(own[torch.randperm(len(own), generator=generator)[:count]])
    return train.rows(torch.cat(chosen))


# ---- the command --------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m dinov3_ref.eval.knn", description=__doc__.splitlines()[0])
    add_common_options(made)
    made.add_argument("--k", type=int, nargs="+", help=f"neighbours; default of {KS} those that fit")
    made.add_argument("--temperature", type=float, default=TEMPERATURE, help="of the softmax (%(default)s)")
    made.add_argument(
        "--skip-first", action="store_true", help="leave out the nearest neighbour: test in train"
    )
    made.add_argument("--shots", type=float, help="few-shot: pictures a class, or a share of them below 1")
    made.add_argument("--tries", type=int, default=5, help="few-shot: random choices, averaged (%(default)s)")
    return made


def evaluate(options: argparse.Namespace) -> Results:
    """Run the command. Raises `Dinov3Error`."""
    train, test = _features(options)
    subsets = [train]
    if options.shots is not None:
        everything = train.gathered()
        subsets = [few_shot(everything, options.shots, n).share() for n in range(options.tries)]
    smallest = min(int(all_reduce_sum(torch.tensor(len(one)))) for one in subsets) - options.skip_first
    ks = options.k or [k for k in KS if k <= smallest] or [smallest]
    if not options.k and len(ks) < len(KS):
        note(f"{smallest} training pictures: k is {', '.join(map(str, ks))}")
    runs = [
        knn_accuracy(subset, test, ks=ks, temperature=options.temperature, skip_first=options.skip_first)
        for subset in subsets
    ]
    results: Results = {}
    for k in ks:
        for key in runs[0][k]:
            title = TITLES[key]
            values = [run[k][key] for run in runs]
            results[f"{k} {title}"] = mean(values)
            if len(runs) > 1:
                results[f"{k} {title} std"] = pstdev(values)
    return results


def _features(options: argparse.Namespace) -> tuple[Labelled, Labelled]:
    if options.weights is None:
        return load_labelled(options.train).share(), load_labelled(options.test).share()
    frozen = FrozenModel.load(options.weights, options.device, options.autocast)
    train, test = open_datasets(options, frozen)
    return (
        extract_features(options, frozen, train, options.train, cls_features),
        extract_features(options, frozen, test, options.test, cls_features),
    )


def main() -> None:
    with launched_device():
        run_command(parser(), evaluate, "results-knn.csv")


if __name__ == "__main__":
    main()
