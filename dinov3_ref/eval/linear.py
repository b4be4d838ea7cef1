"""Linear probe: 13 learning rates in parallel on frozen features (docs/spec.md 5.2).

    python -m dinov3_ref.eval.linear --weights model.safetensors --train digits/train --test digits/test
    python -m dinov3_ref.eval.linear --train train.npz --test test.npz

The input of a classifier is CLS of the last n blocks, then the mean patch of the last one. With --weights the
model sees new crops of the training images at every step, as published; --no-augment computes their features
once, which takes minutes on a CPU instead of days. Embeddings in files (`arrays.py`) are used unchanged, with
the mean patch if both files have patches.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from dinov3_ref.data.datasets import EncodedImages
from dinov3_ref.data.loaders import make_data_loader
from dinov3_ref.data.transforms import make_classification_train_transform
from dinov3_ref.errors import DataError
from dinov3_ref.eval.arrays import holds_patches, load_labelled
from dinov3_ref.eval.command import (
    Results,
    add_common_options,
    extract_features,
    note,
    open_datasets,
    run_command,
)
from dinov3_ref.eval.features import (
    FrozenModel,
    choose_device,
    collate_labelled,
    last_blocks,
    probe_input,
)
from dinov3_ref.eval.labelled import Labelled, check_pair
from dinov3_ref.eval.probe import Batches, LinearProbe, ProbeOptions, rows_at_random


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
    made.add_argument("--resume", action="store_true", help="resume from the checkpoint in --out")
    return made


def evaluate(options: argparse.Namespace) -> Results:
    """Run the command. Raises `Dinov3Error`."""
    chosen = ProbeOptions(
        options.epochs, options.epoch_length, options.batch, tuple(options.last_blocks), options.seed
    )
    if options.weights is None:
        batches, test, names, device = _from_files(options, chosen)
    else:
        batches, test, names, device = _from_model(options, chosen)
    probe = LinearProbe(test, names, chosen, folder=options.out, device=device)
    if options.resume:
        probe.load()
    result = probe.run(batches, note)
    return {
        "classifier": result.name,
        "Top 1": result.top1,
        "Top 5": result.top5,
        "best Top 1": result.best_top1,
    }


Source = tuple[Batches, Labelled, tuple[str, ...], torch.device]


def _from_files(options: argparse.Namespace, chosen: ProbeOptions) -> Source:
    if chosen.last_blocks != (1,):
        raise DataError("--last-blocks needs --weights; embeddings in files are from the last block")
    with_patches = holds_patches(options.train) and holds_patches(options.test)
    if not with_patches:
        note("no patches in the files: the probe uses CLS alone")
    train, test = (load_labelled(path, with_patches=with_patches) for path in (options.train, options.test))
    if train.labels.ndim > 1 or test.labels.ndim > 1:
        raise DataError("the files have several classes per image; a linear probe needs one: use kNN")
    check_pair(train.class_names, train.source, test.class_names, test.source)
    device = choose_device(options.device or "cpu")
    return rows_at_random(train, chosen.batch, chosen.seed), test, train.class_names, device


def _from_model(options: argparse.Namespace, chosen: ProbeOptions) -> Source:
    frozen = FrozenModel.load(options.weights, options.device, options.autocast)
    most = max(chosen.last_blocks)
    if most > frozen.model.n_blocks:
        raise DataError(f"--last-blocks {most} of a model with {frozen.model.n_blocks} blocks; use fewer")
    read = partial(probe_features, blocks=most)
    train, test = open_datasets(options, frozen)
    judged = extract_features(options, frozen, test, options.test, read)
    if options.no_augment:
        features = extract_features(options, frozen, train, options.train, read)
        return rows_at_random(features, chosen.batch, chosen.seed), judged, train.class_names, frozen.device
    train.transform = make_classification_train_transform(
        crop_size=options.size, mean=frozen.mean, std=frozen.std
    )
    batches = augmented_batches(frozen, train, most, chosen, options.workers)
    return batches, judged, train.class_names, frozen.device


def probe_features(frozen: FrozenModel, images: Tensor, blocks: int) -> Tensor:
    """Images [B,3,S,S] -> fp32 [B,(blocks+1)D]."""
    return probe_input(last_blocks(frozen, images, blocks), blocks)


def augmented_batches(
    frozen: FrozenModel, train: EncodedImages, blocks: int, chosen: ProbeOptions, workers: int
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
    run_command(parser(), evaluate, "results-linear.csv")


if __name__ == "__main__":
    main()
