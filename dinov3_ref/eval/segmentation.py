"""Linear segmentation: batch norm and a 1x1 convolution on patch features (docs/spec.md 5.4).

    python -m dinov3_ref.eval.segmentation --weights model.safetensors \\
        --train ADE20K:split=TRAIN:root=ade --test ADE20K:split=VAL:root=ade --out ade-run
    python -m dinov3_ref.eval.segmentation --weights model.safetensors --head head.safetensors --test scenes/

Datasets are ADE20K, VOC2012, Cityscapes, or a folder with images/ and masks/ (`data/datasets/pairs.py`). The
defaults are the published ones for ADE20K. With --out the head is written as head.safetensors, for
`dinodeploy export --head` and `dinodeploy add-head`. --head tests a head without training.

Shapes: S side of a crop, K classes, H W input pixels, h w pixels of the original image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from dinov3_ref.data.datasets.pairs import IGNORED, ImagePairs, open_pairs
from dinov3_ref.data.sample import BrokenImages, SeededSamples, derive_seed, torch_seed
from dinov3_ref.errors import DataError
from dinov3_ref.eval.command import (
    OpenModel,
    Results,
    add_model_options,
    note,
    open_checkpoint,
    progress,
    run_command,
)
from dinov3_ref.eval.dense.fit import FitOptions, HeadFit, Loss, layers_of_blocks, predictor
from dinov3_ref.eval.dense.scores import Confusion
from dinov3_ref.eval.dense.segmentation_crops import TestImages, TrainingCrops
from dinov3_ref.eval.dense.windows import Predict, resize, slide
from dinov3_ref.eval.features import Frozen
from dinov3_ref.heads import Head, LinearSegmenter, load_head, save_head

RESULTS = "results-segmentation.csv"
HEAD = "head.safetensors"
OWN = "own"  # --head: the head inside the model
LICENCE = "trained by dinov3_ref.eval.segmentation: the licence is up to the owner of the images"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m dinov3_ref.eval.segmentation", description=__doc__.splitlines()[0]
    )
    add_dense_options(made, steps=40000, rate=1e-3, weight_decay=1e-3)
    made.add_argument("--size", type=int, default=512, help="short side of an image in pixels (%(default)s)")
    made.add_argument("--crop", type=int, default=512, help="side of crops and windows (%(default)s)")
    made.add_argument("--stride", type=int, default=341, help="pixels between windows (%(default)s)")
    made.add_argument("--dropout", type=float, default=0.1, help="share of channels (%(default)s)")
    made.add_argument("--classes", type=int, help="number of classes; default: of the layout or of the masks")
    return made


def add_dense_options(
    parser: argparse.ArgumentParser, *, steps: int, rate: float, weight_decay: float
) -> None:
    """Add the options that segmentation and depth share."""
    parser.add_argument("--train", help="images and maps to train on; not with --head")
    parser.add_argument("--test", required=True, nargs="+", help="images and maps to test on, one or several")
    parser.add_argument("--head", help=f"head file to test without training; {OWN}: the model's own head")
    add_model_options(parser)
    parser.set_defaults(batch=16)
    parser.add_argument(
        "--layers", nargs="+", default=["last"], help="last, four_last, four_even or block numbers (last)"
    )
    parser.add_argument("--steps", type=int, default=steps, help="training steps (%(default)s)")
    parser.add_argument("--lr", type=float, default=rate, help="largest learning rate (%(default)s)")
    parser.add_argument("--weight-decay", type=float, default=weight_decay, help="of AdamW (%(default)s)")
    parser.add_argument("--save-every", type=int, default=1600, help="steps per checkpoint (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--resume", action="store_true", help="resume from the checkpoint in --out")


def evaluate(options: argparse.Namespace, open_model: OpenModel = open_checkpoint) -> Results:
    """Run the command. Raises `Dinov3Error`."""
    frozen = required_model(options, open_model)
    check_multiple(frozen, "--crop", options.crop)
    if not 0 < options.stride <= options.crop <= options.size:
        raise DataError(
            f"--stride {options.stride}, --crop {options.crop}, --size {options.size}; "
            "wanted 0 < stride <= crop <= size"
        )
    tests = [open_pairs(text, "segmentation") for text in options.test]
    head = head_to_test(options, "segment") if options.head else _fit(options, frozen)
    predict = predictor(frozen, head, "segmentation")
    for pairs in tests:
        pairs.pair_transform = TestImages(options.size, frozen.mean, frozen.std)
    results = score_sets(tests, lambda pairs: _test(options, predict, pairs, head))
    write_head(head, options, frozen, LICENCE, results)
    return results


def score_sets(tests: Sequence[ImagePairs], score: Callable[[ImagePairs], dict[str, float]]) -> Results:
    """The scores of each set, named after it if there are several."""
    results: Results = {}
    for pairs in tests:
        prefix = f"{pairs.source}: " if len(tests) > 1 else ""
        results |= {f"{prefix}{name}": value for name, value in score(pairs).items()}
    return results


def required_model(options: argparse.Namespace, open_model: OpenModel) -> Frozen:
    """The model. Raises `DataError` without one, or without what it is trained or tested on."""
    frozen = open_model(options)
    if frozen is None:
        raise DataError("no model; give --weights CHECKPOINT, or with `dinodeploy evaluate` --engine BUNDLE")
    if (options.train is None) == (options.head is None):
        raise DataError("wanted --train DATASET to train a head, or --head FILE to test one")
    return frozen


def check_multiple(frozen: Frozen, name: str, size: int) -> None:
    """Raises `DataError` for a size that is no multiple of the patch size."""
    if size < frozen.stride or size % frozen.stride:
        raise DataError(f"{name} {size}; wanted a multiple of the patch size {frozen.stride}")


def head_to_test(options: argparse.Namespace, task: str) -> Head | None:
    """The head of --head; None for the model's own. Raises `DataError` for one of another task."""
    if options.head == OWN:
        return None
    loaded = load_head(Path(options.head))
    if loaded.head.task != task:
        raise DataError(f"'{options.head}' is a head of task {loaded.head.task}; wanted {task}")
    for line in loaded.notes:
        note(line)
    return loaded.head.eval()


def write_head(
    head: Head | None, options: argparse.Namespace, frozen: Frozen, licence: str, results: Results
) -> None:
    """Write a head that was trained, with its scores, into --out if given."""
    if options.head or options.out is None or head is None:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    save_head(
        head.cpu(), options.out / HEAD, backbone_sha256=frozen.sha256, licence=licence, trained=dict(results)
    )


def _fit(options: argparse.Namespace, frozen: Frozen) -> Head:
    """Train the head of --train."""
    pairs = open_pairs(options.train, "segmentation")
    classes = options.classes or pairs.num_classes or pairs.found_classes()
    layers = layers_of_blocks(options.layers, frozen.n_blocks)
    chosen = FitOptions(
        options.steps,
        options.batch,
        options.lr,
        options.weight_decay,
        warmup=1500 / 40000,
        ratio=1e-6,
        lag=1,
        dropout=options.dropout,
        every=options.save_every,
        seed=options.seed,
    )
    build = partial(
        LinearSegmenter,
        frozen.embed_dim,
        classes,
        layers=layers,
        batchnorm=True,
        patch_size=frozen.stride,
        classes=pairs.classes if len(pairs.classes) == classes else (),
    )
    pairs.pair_transform = TrainingCrops(options.size, options.crop, frozen.mean, frozen.std)
    described = {"train": options.train, "size": options.size, "crop": options.crop, "layers": layers}
    return train_head(options, frozen, build, pairs, cross_entropy, chosen, described | {"classes": classes})


def train_head(
    options: argparse.Namespace,
    frozen: Frozen,
    build: Callable[[], Head],
    pairs: ImagePairs,
    loss: Loss,
    chosen: FitOptions,
    described: dict[str, Any],
) -> Head:
    """A head trained on `pairs`, from weights of the seed. described: what --resume compares."""
    with torch_seed(derive_seed(options.seed, "head")):
        head = build()
    fit = HeadFit(
        frozen,
        head,
        pairs,
        loss,
        chosen,
        folder=options.out,
        described=described | {"model": frozen.sha256},
        workers=options.workers,
    )
    if options.resume:
        fit.resume()
    fit.run(note)
    return head


def cross_entropy(score_BKSS: Tensor, id_BSS: Tensor, step: int) -> Tensor:
    """Cross-entropy without ignored pixels, divided by the number of all pixels, as published."""
    return F.cross_entropy(score_BKSS, id_BSS, ignore_index=IGNORED, reduction="none").mean()


def _test(
    options: argparse.Namespace, predict: Predict, pairs: ImagePairs, head: Head | None
) -> dict[str, float]:
    """Scores on all images of a dataset."""
    classes = None if head is None else head.outputs["segmentation"][1]
    confusion: Confusion | None = None
    for number, (image_3HW, id_hw) in enumerate(readable(pairs)):
        scores_KHW = slide(predict, image_3HW, options.crop, options.stride, options.batch)
        if confusion is None:
            confusion = Confusion(int(classes or len(scores_KHW)))
        height, width = id_hw.shape
        confusion.add(resize(scores_KHW, (height, width)).argmax(0), id_hw)
        progress(f"{pairs.source}: {number + 1} of {len(pairs)} images")
    if confusion is None:
        raise DataError(f"'{pairs.source}' has no readable image")
    return confusion.scores()


def readable(pairs: ImagePairs) -> Iterator[tuple[Tensor, Tensor]]:
    """What the transform makes of each readable pair, in order. Raises `DataError` for too many others."""
    account = BrokenImages()
    samples = SeededSamples(pairs, tries=1)
    for index in range(len(pairs)):
        sample = samples[index]
        account.record(1, sample.broken)
        if sample.views is not None:
            yield sample.views
        else:
            note(sample.broken[0])


def main() -> None:
    run_command(parser(), evaluate, RESULTS)


if __name__ == "__main__":
    main()
