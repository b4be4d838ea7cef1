"""Linear depth: bins on patch features, trained with a scale-invariant loss (docs/spec.md 5.6).

    python -m dinov3_ref.eval.depth --weights model.safetensors \\
        --train NYU:split=TRAIN:root=nyu --test NYU:split=VAL:root=nyu --out nyu-run
    python -m dinov3_ref.eval.depth --weights model.safetensors --head head.safetensors --test rooms/

Datasets are NYU, with its lists of files, or a folder with images/ and depth/ (`data/datasets/pairs.py`).
The defaults are the published ones for NYU. With --out the head is written as head.safetensors, for
`dinodeploy export --head` and `dinodeploy add-head`. --head tests a head without training.

Shapes: S T height and width of a crop, H W input pixels, h w pixels of the original image.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor

from dinov3_ref.data.datasets.pairs import ImagePairs, open_pairs
from dinov3_ref.errors import DataError
from dinov3_ref.eval.command import OpenModel, Results, open_checkpoint, progress, run_command
from dinov3_ref.eval.dense.depth_crops import TestImages, TrainingCrops
from dinov3_ref.eval.dense.fit import FitOptions, layers_of_blocks, predictor
from dinov3_ref.eval.dense.scores import CROPS, DepthErrors
from dinov3_ref.eval.dense.windows import Predict, resize, whole
from dinov3_ref.eval.features import Frozen
from dinov3_ref.eval.segmentation import (
    add_dense_options,
    check_multiple,
    head_to_test,
    readable,
    required_model,
    score_sets,
    train_head,
    write_head,
)
from dinov3_ref.heads import Head, LinearDepth

RESULTS = "results-depth.csv"
LICENCE = "trained by dinov3_ref.eval.depth: the licence is up to the owner of the images"
MEAN_WEIGHT = 0.15  # of the squared mean log error
WARM_UP = 100  # steps with that term alone
SMALL = 1e-3  # added before logarithms, metres
CLIP = 35.0
BETA = 0.99


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m dinov3_ref.eval.depth", description=__doc__.splitlines()[0]
    )
    add_dense_options(made, steps=38400, rate=3e-4, weight_decay=1e-4)
    made.add_argument("--bins", type=int, default=256, help="depths that are weighted (%(default)s)")
    made.add_argument("--min-depth", type=float, default=0.001, help="metres (%(default)s)")
    made.add_argument("--max-depth", type=float, default=10.0, help="metres (%(default)s)")
    made.add_argument("--unit", type=float, default=1000.0, help="levels of a depth image per metre (1000)")
    made.add_argument(
        "--crop-size", type=int, nargs=2, default=[416, 544], help="height and width to train on (416 544)"
    )
    made.add_argument(
        "--border", choices=("nyu", "none"), default="nyu", help="border to cut in training (nyu)"
    )
    made.add_argument("--crop", choices=CROPS, default="eigen", help="pixels that are tested (%(default)s)")
    made.add_argument("--size", type=int, nargs=2, help="height and width of test inputs; default: their own")
    made.add_argument("--no-flip", action="store_true", help="test without the mirror image")
    return made


def evaluate(options: argparse.Namespace, open_model: OpenModel = open_checkpoint) -> Results:
    """Run the command. Raises `Dinov3Error`."""
    frozen = required_model(options, open_model)
    for side in options.crop_size:
        check_multiple(frozen, "--crop-size", side)
    if not options.unit > 0:
        raise DataError(f"--unit {options.unit}; wanted a number above 0, for example 1000 for millimetres")
    tests = [open_pairs(text, "depth") for text in options.test]
    head = head_to_test(options, "depth") if options.head else _fit(options, frozen)
    predict = predictor(frozen, head, "depth")
    size = tuple(options.size) if options.size else None
    for pairs in tests:
        pairs.pair_transform = TestImages(frozen.mean, frozen.std, options.unit, size)
    results = score_sets(tests, lambda pairs: _test(options, frozen, predict, pairs))
    write_head(head, options, frozen, LICENCE, results)
    return results


def _fit(options: argparse.Namespace, frozen: Frozen) -> Head:
    """Train the head of --train."""
    pairs = open_pairs(options.train, "depth")
    layers = layers_of_blocks(options.layers, frozen.n_blocks)
    chosen = FitOptions(
        options.steps,
        options.batch,
        options.lr,
        options.weight_decay,
        warmup=1 / 3,
        beta=BETA,
        clip=CLIP,
        every=options.save_every,
        seed=options.seed,
    )
    build = partial(
        LinearDepth,
        frozen.embed_dim,
        options.bins,
        options.min_depth,
        options.max_depth,
        layers=layers,
        batchnorm=True,
        patch_size=frozen.stride,
    )
    height, width = options.crop_size
    pairs.pair_transform = TrainingCrops(
        (height, width), frozen.mean, frozen.std, options.unit, options.border == "nyu"
    )
    names = ("train", "crop_size", "border", "unit", "bins", "min_depth", "max_depth")
    described = {name: getattr(options, name) for name in names}
    return train_head(options, frozen, build, pairs, scale_invariant, chosen, described | {"layers": layers})


def scale_invariant(depth_B1ST: Tensor, truth_BST: Tensor, step: int) -> Tensor:
    """sqrt(Var(g) + 0.15 Mean(g)²) of g = log depth - log truth, over the known pixels of a batch.

    Without the variance in the first 100 steps. Source: docs/spec.md 5.6; arXiv:1406.2283, equation 4.
    """
    depth, known = depth_B1ST[:, 0], truth_BST > 0
    if int(known.sum()) < 2:
        return depth.sum() * 0.0
    g = torch.log(depth[known] + SMALL) - torch.log(truth_BST[known] + SMALL)
    mean = MEAN_WEIGHT * g.mean().square()
    return (mean if step < WARM_UP else g.var() + mean).sqrt()


def _test(
    options: argparse.Namespace, frozen: Frozen, predict: Predict, pairs: ImagePairs
) -> dict[str, float]:
    """Scores on all images of a dataset."""
    errors = DepthErrors(options.min_depth, options.max_depth, options.crop)
    for number, (image_3HW, truth_hw) in enumerate(readable(pairs)):
        depth_1HW = whole(predict, image_3HW, frozen.stride, flipped=not options.no_flip)
        height, width = truth_hw.shape
        errors.add(resize(depth_1HW, (height, width))[0], truth_hw)
        progress(f"{pairs.source}: {number + 1} of {len(pairs)} images")
    return errors.scores()


def main() -> None:
    run_command(parser(), evaluate, RESULTS)


if __name__ == "__main__":
    main()
