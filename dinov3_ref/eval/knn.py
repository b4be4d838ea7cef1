"""k nearest neighbours on frozen features (SPEC 5.1).

    python -m dinov3_ref.eval.knn --weights model.safetensors --train digits/train --test digits/test
    python -m dinov3_ref.eval.knn --train train.npz --test test.npz

With --weights, --train and --test are labelled datasets (a folder with a folder for each class, a list, tar
shards, tables); without, embeddings that lie in files (`arrays.py`), such as a bundle's.

Shapes: N training, M test features, K = max(ks) neighbours, D width, C classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import mean, pstdev

import torch
import torch.nn.functional as F
from torch import Tensor

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

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07
SIMILARITIES = 2**26  # computed at once: a quarter of a gigabyte

Accuracies = dict[int, dict[str, float]]


def knn_accuracy(
    train: Labelled,
    test: Labelled,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    skip_first: bool = False,
) -> Accuracies:
    """{k: {"top1", "top5"}} in per cent, every test picture counting alike.

    Similarity is the cosine. The K nearest neighbours weigh softmax(similarity / temperature), taken once
    over all K; a class scores what its members among the first k weigh. skip_first: leave out the nearest
    one, for a test set that is part of the training set. Raises `DataError` for a k larger than the
    training set.
    """
    check_pair(train.class_names, train.source, test.class_names, test.source)
    nearest = max(ks) + skip_first
    if min(ks) < 1 or nearest > len(train):
        raise DataError(
            f"k of {max(ks)} wants {nearest} training pictures, '{train.source}' has {len(train)}; use a "
            "smaller k"
        )
    train_ND, classes = F.normalize(train.features), len(train.class_names)
    labels_M = renumber(test.labels, test.class_names, train.class_names)
    hits: dict[int, list[Tensor]] = {k: [] for k in ks}
    rows = max(1, SIMILARITIES // len(train))
    for features_MD, truth_M in zip(
        F.normalize(test.features).split(rows), labels_M.split(rows), strict=True
    ):
        similarity_MK, index_MK = (features_MD @ train_ND.T).topk(nearest)
        similarity_MK, index_MK = similarity_MK[:, skip_first:], index_MK[:, skip_first:]
        weight_MK = torch.softmax(similarity_MK / temperature, dim=1)
        for k in ks:
            score_MC = class_scores(weight_MK[:, :k], train.labels[index_MK[:, :k]], classes)
            hits[k].append(score_MC.topk(min(5, classes)).indices == truth_M.unsqueeze(1))
    return {k: _accuracy(torch.cat(found)) for k, found in hits.items()}


def class_scores(weight_MK: Tensor, label_MK: Tensor, classes: int) -> Tensor:
    """Weights of neighbours, added up by their class: [M,C]."""
    return weight_MK.new_zeros(len(weight_MK), classes).scatter_add_(1, label_MK, weight_MK)


def few_shot(train: Labelled, shots: float, seed: int) -> Labelled:
    """Some pictures of each class, drawn at random: `shots` of them, or that share of them below 1."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for number in range(len(train.class_names)):
        own = (train.labels == number).nonzero().flatten()
        count = int(shots) if shots >= 1 else max(1, round(shots * len(own)))
        chosen.append(own[torch.randperm(len(own), generator=generator)[:count]])
    return train.rows(torch.cat(chosen))


def _accuracy(hit_M5: Tensor) -> dict[str, float]:
    """Hits at each of the first five places -> per cent."""
    places = hit_M5.double()
    return {"top1": 100 * places[:, 0].mean().item(), "top5": 100 * places.sum(1).mean().item()}


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
    subsets = (
        [train]
        if options.shots is None
        else [few_shot(train, options.shots, n) for n in range(options.tries)]
    )
    smallest = min(map(len, subsets)) - options.skip_first
    ks = options.k or [k for k in KS if k <= smallest] or [smallest]
    if not options.k and len(ks) < len(KS):
        note(f"{smallest} training pictures: k is {', '.join(map(str, ks))}")
    runs = [
        knn_accuracy(subset, test, ks=ks, temperature=options.temperature, skip_first=options.skip_first)
        for subset in subsets
    ]
    results: Results = {}
    for k in ks:
        for key, title in (("top1", "Top 1"), ("top5", "Top 5")):
            values = [run[k][key] for run in runs]
            results[f"{k} {title}"] = mean(values)
            if len(runs) > 1:
                results[f"{k} {title} std"] = pstdev(values)
    return results


def _features(options: argparse.Namespace) -> tuple[Labelled, Labelled]:
    if options.weights is None:
        return load_labelled(options.train), load_labelled(options.test)
    frozen = FrozenModel.load(options.weights, options.device, options.autocast)
    train, test = open_datasets(options, frozen)
    return (
        extract_features(options, frozen, train, options.train, cls_features),
        extract_features(options, frozen, test, options.test, cls_features),
    )


def main() -> None:
    run_command(parser(), evaluate, "results-knn.csv")


if __name__ == "__main__":
    main()
