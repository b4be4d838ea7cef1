"""Linear probe: 13 learning rates in parallel on frozen features (docs/spec.md 5.2).

    python -m dinov3_ref.eval.linear --weights model.safetensors --train digits/train --test digits/test
    python -m dinov3_ref.eval.linear --train train.npz --test test.npz

The input of a classifier is CLS of the last n blocks, then the mean patch of the last one. With --weights the
model sees new crops of the training images at every step, as published; --no-augment computes their features
once, which takes minutes on a CPU instead of days. Embeddings in files (`arrays.py`) are used unchanged, with
the mean patch if both files have patches.

The classifier is trained once for all test sets. It is chosen on --val, or without it on the first test set,
as for published numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, pstdev

import torch
from torch import Tensor

from dinov3_ref.data.datasets import EncodedImages
from dinov3_ref.data.datasets.encoded import ChosenImages
from dinov3_ref.data.loaders import make_data_loader
from dinov3_ref.data.transforms import make_classification_train_transform
from dinov3_ref.errors import DataError
from dinov3_ref.eval.arrays import holds_patches, load_labelled
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
from dinov3_ref.eval.features import Frozen, choose_device, collate_labelled, probe_input, probe_names
from dinov3_ref.eval.labelled import Labelled, few_rows, few_shot
from dinov3_ref.eval.probe import Batches, LinearProbe, ProbeOptions, ProbeResult, rows_at_random
from dinov3_ref.eval.test_sets import NONE, TestOptions, TestSet, make_test_set, options_per_set

RESULTS = "results-linear.csv"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m dinov3_ref.eval.linear", description=__doc__.splitlines()[0]
    )
    add_common_options(made)
    made.set_defaults(batch=ProbeOptions.batch)
    made.add_argument("--epochs", type=int, default=ProbeOptions.epochs, help="(%(default)s)")
    made.add_argument(
        "--epoch-length", type=int, default=ProbeOptions.epoch_length, help="steps per epoch (%(default)s)"
    )
    made.add_argument(
        "--last-blocks", type=int, nargs="+", default=[1], help="numbers of last blocks; one grid each (1)"
    )
    made.add_argument("--no-augment", action="store_true", help="compute features of centre crops once")
    made.add_argument("--seed", type=int, default=ProbeOptions.seed, help="(%(default)s)")
    made.add_argument("--val", help="labelled data that chooses the classifier; default: the first test set")
    add_few_shot_options(made)
    made.add_argument("--resume", action="store_true", help="resume from the checkpoint in --out")
    return made


@dataclass(frozen=True)
class Source:
    """What a probe is trained and tested on."""

    few: list[Batches]  # of all training images, or of each sample of few-shot
    chooser: Labelled
    tests: list[TestSet]
    class_names: tuple[str, ...]
    device: torch.device


def evaluate(options: argparse.Namespace, open_model: OpenModel = open_checkpoint) -> Results:
    """Run the command. Raises `Dinov3Error`."""
    chosen = ProbeOptions(
        options.epochs, options.epoch_length, options.batch, tuple(options.last_blocks), options.seed
    )
    frozen = open_model(options)
    source = _from_files(options, chosen) if frozen is None else _from_model(options, chosen, frozen)
    runs: list[tuple[LinearProbe, ProbeResult]] = []
    for number, batches in enumerate(source.few):
        folder = _folder(options.out, number, len(source.few))
        probe = LinearProbe(source.chooser, source.class_names, chosen, folder=folder, device=source.device)
        if options.resume:
            probe.load()
        runs.append((probe, probe.run(batches, note)))
    results: Results = {"classifier": ", ".join(result.name for _, result in runs)}
    for test in source.tests:
        scores = [test.judge(probe.logits(result.name, test.features)) for probe, result in runs]
        results |= over_tries(scores, prefix_of(test, source.tests))
    best = [result.best_top1 for _, result in runs]
    results["best Top 1"] = mean(best)
    if len(runs) > 1:
        results["best Top 1 std"] = pstdev(best)
    return results


def _folder(out: Path | None, number: int, count: int) -> Path | None:
    """The folder of one probe: of its own for each sample of few-shot."""
    return out if out is None or count == 1 else out / f"try_{number}"


def _chooser(tests: list[TestSet], class_names: tuple[str, ...]) -> Labelled:
    """The first test set, where it can choose a classifier. Raises `DataError`."""
    first = tests[0]
    if not first.plain:
        raise DataError(
            f"'{first.source}' has a class map or several labels, and cannot choose a classifier; give --val"
        )
    return Labelled(first.features, first.labels, class_names, first.source)


def _from_files(options: argparse.Namespace, chosen: ProbeOptions) -> Source:
    if chosen.last_blocks != (1,):
        raise DataError("--last-blocks needs --weights; embeddings in files are from the last block")
    asked = options_per_set(options)
    paths = [options.train, *([options.val] if options.val else []), *options.test]
    with_patches = all(holds_patches(path) for path in paths)
    if not with_patches:
        note("no patches in the files: the probe uses CLS alone")
    load = partial(load_labelled, with_patches=with_patches)
    train = _one_class_each(load(options.train))
    tests = [make_test_set(train, load(one.source), one) for one in asked]
    chooser = load(options.val) if options.val else _chooser(tests, train.class_names)
    few = [train]
    if options.shots is not None:
        few = [few_shot(train, options.shots, number) for number in range(options.tries)]
    batches = [rows_at_random(one, chosen.batch, chosen.seed) for one in few]
    return Source(batches, chooser, tests, train.class_names, choose_device(options.device or "cpu"))


def _one_class_each(train: Labelled) -> Labelled:
    if train.labels.ndim > 1:
        raise DataError(
            "the files have several classes per image; a linear probe needs one: use kNN or logistic"
        )
    return train


def _from_model(options: argparse.Namespace, chosen: ProbeOptions, frozen: Frozen) -> Source:
    most = max(chosen.last_blocks)
    probe_names(frozen, most)
    read = partial(probe_features, blocks=most)
    train = open_dataset(options, frozen, options.train)
    names = train.class_names
    asked = options_per_set(options)
    if options.val:
        asked = [TestOptions(options.val), *asked]
    opened = [open_test(options, frozen, one, names) for one in asked]
    if not options.val and (asked[0].class_map != NONE or asked[0].true_labels != NONE):
        raise DataError(
            "the first test set has a class map or true labels; give --val to choose a classifier"
        )
    stub = Labelled(torch.zeros(1, 1), torch.zeros(1, dtype=torch.long), names, options.train)
    tests = [
        read_test(options, frozen, images, one, stub, read) for images, one in zip(opened, asked, strict=True)
    ]
    chooser = _chooser(tests, names)
    tests = tests[1:] if options.val else tests
    rows = [torch.arange(len(train))]
    if options.shots is not None:
        labels = torch.from_numpy(train.labels)
        rows = [few_rows(labels, len(names), options.shots, number) for number in range(options.tries)]
    sets = [ChosenImages(train, one.tolist()) for one in rows]
    if options.no_augment:
        found = [extract_features(options, frozen, images, options.train, read) for images in sets]
        batches = [rows_at_random(features, chosen.batch, chosen.seed) for features in found]
    else:
        crops = make_classification_train_transform(crop_size=options.size, mean=frozen.mean, std=frozen.std)
        for images in sets:
            images.transform = crops
        batches = [augmented_batches(frozen, images, most, chosen, options.workers) for images in sets]
    return Source(batches, chooser, tests, names, frozen.device)


def probe_features(frozen: Frozen, images: Tensor, blocks: int) -> Tensor:
    """Images [B,3,S,S] -> fp32 [B,(blocks+1)D]."""
    names = probe_names(frozen, blocks)
    return probe_input(frozen.outputs(images, names), names)


def augmented_batches(
    frozen: Frozen, train: EncodedImages, blocks: int, chosen: ProbeOptions, workers: int
) -> Batches:
    """Batches with features of new crops at every step."""

    def from_sample(skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader = make_data_loader(
            dataset=train,
            batch_size=chosen.batch,
            collate_fn=collate_labelled,
            num_workers=workers,
            seed=chosen.seed,
            sampler_advance=skip,
            rank=0,
            world_size=1,
        )
        for batch in loader:
            yield probe_features(frozen, batch["images"], blocks), batch["labels"]

    return from_sample


def main() -> None:
    run_command(parser(), evaluate, RESULTS)


if __name__ == "__main__":
    main()
