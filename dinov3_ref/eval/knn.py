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
from statistics import mean, pstdev

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3_ref.distributed import all_reduce_sum, gather_rows, gather_shares, get_world_size
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


KS = (10, 20, 100, 200)
TEMPERATURE = 0.07
TITLES = {"top1": "Top 1", "top5": "Top 5", "mAP": "mAP"}  # titles in the results

Accuracies = dict[int, dict[str, float]]


def knn_accuracy(
    train: Labelled,
    test: Labelled,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    skip_first: bool = False,
) -> Accuracies:
    """{k: {"top1", "top5"}} in per cent; {k: {"mAP"}} for images with several classes.

    Similarity is the cosine. The weights of the K nearest neighbours are softmax(similarity / temperature),
    over all K; the score of a class is the sum of its weights among the first k. skip_first: leave out the
    nearest neighbour, for a test set inside the training set. In a process group `train` and `test` are this
    rank's shares; the result covers all ranks. Raises `DataError` for a k larger than the training set.
    """
    check_pair(train.class_names, train.source, test.class_names, test.source)
    count, available = max(ks) + skip_first, int(all_reduce_sum(torch.tensor(len(train))))
    if min(ks) < 1 or count > available:
        raise DataError(
            f"k of {max(ks)} needs {count} training images, '{train.source}' has {available}; use a smaller k"
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
    """Sum the weights of neighbours by class: [M,C]; labels [M,K], or bool [M,K,C]."""
    if labels.ndim == 3:
        return (weight_MK.unsqueeze(-1) * labels).sum(1)
    return weight_MK.new_zeros(len(weight_MK), classes).scatter_add_(1, labels, weight_MK)


def _hits(score_MC: Tensor, truth_M: Tensor) -> dict[str, float]:
    """Top-1 and top-5 accuracy in per cent."""
    hit_M5 = score_MC.topk(min(5, score_MC.shape[1])).indices == truth_M.unsqueeze(1)
    hits = hit_M5.double()
    return {"top1": 100 * hits[:, 0].mean().item(), "top5": 100 * hits.sum(1).mean().item()}


def _mean_average_precision(score_MC: Tensor, truth_MC: Tensor) -> dict[str, float]:
    """Mean over the classes that occur of their average precision, in per cent."""
    order_MC = score_MC.argsort(dim=0, descending=True, stable=True)
    hit_MC = truth_MC.gather(0, order_MC).double()
    rank_M1 = torch.arange(1, len(hit_MC) + 1, dtype=torch.float64).unsqueeze(1)
    positives_C = hit_MC.sum(0)
    precision_C = (hit_MC * hit_MC.cumsum(0) / rank_M1).sum(0) / positives_C.clamp(min=1)
    return {"mAP": 100 * precision_C[positives_C > 0].mean().item()}


def few_shot(train: Labelled, shots: float, seed: int) -> Labelled:
    """A random sample of each class: `shots` images, or for `shots` below 1 that share of them.

    Raises `DataError` for images with several classes.
    """
    if train.labels.ndim > 1:
        raise DataError(
            f"'{train.source}' has several classes per image; few-shot needs one: leave out --shots"
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
    made.add_argument("--shots", type=float, help="few-shot: images per class, or below 1 a share of them")
    made.add_argument(
        "--tries", type=int, default=5, help="few-shot: random samples to average over (%(default)s)"
    )
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
        note(f"{smallest} training images: k is {', '.join(map(str, ks))}")
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
