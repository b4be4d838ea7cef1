"""k nearest neighbours on frozen features (docs/spec.md 5.1).

    python -m dinov3_ref.eval.knn --weights model.safetensors --train digits/train --test digits/test
    python -m dinov3_ref.eval.knn --train train.npz --test test.npz
    torchrun --nproc-per-node 8 -m dinov3_ref.eval.knn --weights ... each rank takes its share of the images

With --weights, --train and --test are labelled datasets (a folder with one folder per class, a list, tar
shards, tables). Without it they are embeddings in files (`arrays.py`), for example from a bundle. For images
with several classes the result is the mean average precision.

Shapes: N training, M test features, K = max(ks) neighbours, D width, C classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3_ref.distributed import all_reduce_sum, gather_rows, gather_shares, get_world_size
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
    open_test,
    over_tries,
    prefix_of,
    read_test,
    run_command,
)
from dinov3_ref.eval.features import Frozen, cls_features
from dinov3_ref.eval.labelled import Labelled, few_shot
from dinov3_ref.eval.metrics import Scores
from dinov3_ref.eval.test_sets import TestOptions, TestSet, make_test_set, options_per_set
from dinov3_ref.train.distributed.devices import launched_device

MAX_SIMILARITIES = 2**26  # in memory: a quarter of a gigabyte


def nearest(train: Labelled, queries_MD: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(similarities, labels) of the `count` nearest, for some rows of `queries_MD` at a time.

    Similarities are cosines [rows,K], largest first; labels are long [rows,K], or bool [rows,K,C] for several
    classes per image. `queries_MD` is equal on all ranks; `train` has at least `count` rows over all ranks.
    """
    features_ND = F.normalize(train.features)
    rows = max(1, MAX_SIMILARITIES // max(len(train), count * train.labels[0].numel() * get_world_size()))
    for part_MD in F.normalize(queries_MD).split(rows):
        similarity_MK, index_MK = (part_MD @ features_ND.T).topk(min(count, len(train)))
        yield _best_of_ranks(similarity_MK, train.labels[index_MK], count)


def _best_of_ranks(similarity: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[rows, own K] of each rank -> the `count` largest over all ranks, with their labels."""
    world = get_world_size()
    if world == 1:
        return similarity, labels
    lacking = count - similarity.shape[1]  # a share may be smaller than K
    similarity = F.pad(similarity, (0, lacking), value=float("-inf"))
    labels = torch.cat([labels, labels.new_zeros(len(labels), lacking, *labels.shape[2:])], dim=1)
    # [W·rows, K] -> [rows, W·K]: in rank order, so that all ranks choose the same
    similarity = torch.cat(gather_rows(similarity).chunk(world), dim=1)
    labels = torch.cat(gather_rows(labels).chunk(world), dim=1)
    best_MK, place_MK = similarity.topk(count)
    return best_MK, labels[torch.arange(len(labels)).unsqueeze(1), place_MK]


RESULTS = "results-knn.csv"
KS = (10, 20, 100, 200)
TEMPERATURE = 0.07

Accuracies = dict[int, Scores]


def knn_scores(
    train: Labelled,
    queries_MD: Tensor,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    skip_first: bool = False,
) -> dict[int, Tensor]:
    """{k: scores [M,C]}: the sum of the weights of a class among the k nearest neighbours.

    Similarity is the cosine. The weights of the K nearest neighbours are softmax(similarity / temperature),
    over all K. skip_first: leave out the nearest neighbour, for a test set inside the training set. In a
    process group `train` is this rank's share and `queries_MD` those of all ranks; so is the result. Raises
    `DataError` for a k larger than the training set.
    """
    count, available = max(ks) + skip_first, int(all_reduce_sum(torch.tensor(len(train))))
    if min(ks) < 1 or count > available:
        raise DataError(
            f"k of {max(ks)} needs {count} training images, '{train.source}' has {available}; use a smaller k"
        )
    scores: dict[int, list[Tensor]] = {k: [] for k in ks}
    for similarity_MK, labels in nearest(train, queries_MD, count):
        weight_MK = torch.softmax(similarity_MK[:, skip_first:] / temperature, dim=1)
        labels = labels[:, skip_first:]
        for k in ks:
            scores[k].append(class_scores(weight_MK[:, :k], labels[:, :k], len(train.class_names)))
    return {k: torch.cat(found) for k, found in scores.items()}


def knn_accuracy(
    train: Labelled,
    test: Labelled,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    skip_first: bool = False,
) -> Accuracies:
    """{k: {"top1", "top5"}} in per cent; {k: {"mAP"}} for images with several classes (`knn_scores`).

    In a process group `train` and `test` are this rank's shares; the result covers all ranks.
    """
    judged = make_test_set(train, test, TestOptions(test.source))
    return _judge(train, judged, ks=ks, temperature=temperature, skip_first=skip_first)


def _judge(train: Labelled, test: TestSet, **rules: Any) -> Accuracies:
    """The scores of a test set, whose features and labels are this rank's share."""
    truth = gather_shares(test.labels)
    found = knn_scores(train, gather_shares(test.features), **rules)
    return {k: test.judge(score_MC, truth) for k, score_MC in found.items()}


def class_scores(weight_MK: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Sum the weights of neighbours by class: [M,C]; labels [M,K], or bool [M,K,C]."""
    if labels.ndim == 3:
        return (weight_MK.unsqueeze(-1) * labels).sum(1)
    return weight_MK.new_zeros(len(weight_MK), classes).scatter_add_(1, labels, weight_MK)


# ---- the command --------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m dinov3_ref.eval.knn", description=__doc__.splitlines()[0])
    add_common_options(made)
    made.add_argument(
        "--k", type=int, nargs="+", help=f"numbers of neighbours; default: those of {KS} that fit the data"
    )
    made.add_argument(
        "--temperature", type=float, default=TEMPERATURE, help="temperature of the softmax (%(default)s)"
    )
    made.add_argument(
        "--skip-first",
        action="store_true",
        help="leave out the nearest neighbour, for a test set inside the training set",
    )
    add_few_shot_options(made)
    return made


def evaluate(options: argparse.Namespace, open_model: OpenModel = open_checkpoint) -> Results:
    """Run the command. Raises `Dinov3Error`."""
    train, tests = read_sets(options, open_model(options))
    subsets = [train]
    if options.shots is not None:
        everything = train.gathered()
        subsets = [few_shot(everything, options.shots, n).share() for n in range(options.tries)]
    smallest = min(int(all_reduce_sum(torch.tensor(len(one)))) for one in subsets) - options.skip_first
    ks = options.k or [k for k in KS if k <= smallest] or [smallest]
    if not options.k and len(ks) < len(KS):
        note(f"{smallest} training images: k is {', '.join(map(str, ks))}")
    rules = {"ks": ks, "temperature": options.temperature, "skip_first": options.skip_first}
    results: Results = {}
    for test in tests:
        runs = [_judge(subset, test, **rules) for subset in subsets]
        for k in ks:
            results |= over_tries([run[k] for run in runs], f"{prefix_of(test, tests)}{k} ")
    return results


def read_sets(options: argparse.Namespace, frozen: Frozen | None) -> tuple[Labelled, list[TestSet]]:
    """CLS features of --train and of every --test; in a process group, this rank's share."""
    asked = options_per_set(options)
    if frozen is None:
        train = load_labelled(options.train).share()
        return train, [make_test_set(train, load_labelled(one.source).share(), one) for one in asked]
    dataset = open_dataset(options, frozen, options.train)
    opened = [open_test(options, frozen, one, dataset.class_names) for one in asked]
    train = extract_features(options, frozen, dataset, options.train, cls_features)
    return train, [
        read_test(options, frozen, images, one, train, cls_features)
        for images, one in zip(opened, asked, strict=True)
    ]


def main() -> None:
    with launched_device():
        run_command(parser(), evaluate, RESULTS)


if __name__ == "__main__":
    main()
