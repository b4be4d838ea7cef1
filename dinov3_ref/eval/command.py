"""Shared by the evaluation commands: options, feature extraction, output.

Results go to stdout (a table or JSON) and with --out to files; notes go to stderr. An error is one line, with
its exit code.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, pstdev

import torch

from dinov3_ref.atomic import replacing
from dinov3_ref.data.datasets import EncodedImages, make_dataset
from dinov3_ref.data.transforms import make_classification_eval_transform
from dinov3_ref.distributed import get_rank
from dinov3_ref.errors import DataError, Dinov3Error
from dinov3_ref.eval.features import AUTOCAST, Frozen, FrozenModel, Read, extract
from dinov3_ref.eval.labelled import Labelled, check_pair
from dinov3_ref.eval.metrics import TITLES, Scores
from dinov3_ref.eval.test_sets import (
    NONE,
    TestOptions,
    TestSet,
    add_test_options,
    make_test_set,
    number_rows,
    read_class_map,
    true_labels,
)

Results = dict[str, float | str]
OpenModel = Callable[[argparse.Namespace], Frozen | None]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for images, model and output."""
    parser.add_argument("--train", required=True, help="labelled dataset; without --weights, embeddings")
    parser.add_argument(
        "--test",
        required=True,
        nargs="+",
        help="test sets of the same kind; their classes must be in --train, or in a --class-map",
    )
    add_test_options(parser)
    add_model_options(parser, "; without it, --train and --test are embeddings")
    parser.add_argument("--size", type=int, default=224, help="centre crop size in pixels (%(default)s)")


def add_model_options(parser: argparse.ArgumentParser, without: str = "") -> None:
    """Add the options for the model, its batches and the output."""
    parser.add_argument("--weights", help=f"checkpoint in any layout{without}")
    parser.add_argument("--batch", type=int, default=64, help="images per batch (%(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="data loading processes (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: cuda if available")
    parser.add_argument(
        "--autocast", choices=AUTOCAST, default="none", help="autocast dtype of the model (%(default)s)"
    )
    parser.add_argument("--out", type=Path, help="folder for options, results and the trained head")
    parser.add_argument("--json", action="store_true", help="print results as JSON")


def add_few_shot_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for few-shot."""
    parser.add_argument("--shots", type=float, help="few-shot: images per class, or below 1 a share of them")
    parser.add_argument(
        "--tries", type=int, default=5, help="few-shot: random samples to average over (%(default)s)"
    )


def open_checkpoint(options: argparse.Namespace) -> Frozen | None:
    """The model of --weights; None without one. Raises `CheckpointError`."""
    if options.weights is None:
        return None
    return FrozenModel.load(options.weights, options.device, options.autocast)


def open_dataset(
    options: argparse.Namespace, frozen: Frozen, text: str, *, labelled: bool = True
) -> EncodedImages:
    """A dataset with the evaluation transform. Raises `DataError`."""
    if options.size < frozen.stride or options.size % frozen.stride:
        raise DataError(
            f"--size {options.size} is not a multiple of the patch size; wanted a multiple of {frozen.stride}"
        )
    transform = make_classification_eval_transform(
        crop_size=options.size,
        resize_size=getattr(options, "resize", None),
        mean=frozen.mean,
        std=frozen.std,
    )
    return make_dataset(text, labelled=labelled, transform=transform)


def open_test(
    options: argparse.Namespace, frozen: Frozen, asked: TestOptions, train_names: tuple[str, ...]
) -> EncodedImages:
    """The dataset of a test set, checked before features are computed. Raises `DataError`."""
    dataset = open_dataset(options, frozen, asked.source, labelled=asked.true_labels == NONE)
    if asked.true_labels != NONE:
        number_rows(dataset)
        true_labels(asked.true_labels, dataset, torch.arange(len(dataset)), train_names)
    elif asked.class_map == NONE:
        check_pair(train_names, options.train, dataset.class_names, asked.source)
    else:
        read_class_map(asked.class_map, train_names, dataset.class_names)
    return dataset


def read_test(
    options: argparse.Namespace,
    frozen: Frozen,
    dataset: EncodedImages,
    asked: TestOptions,
    train: Labelled,
    read: Read,
) -> TestSet:
    """Features of a test set, and how it is judged. train: its class names and kind of labels are used."""
    found = extract_features(options, frozen, dataset, asked.source, read)
    if asked.true_labels != NONE:
        labels = true_labels(asked.true_labels, dataset, found.labels, train.class_names)
        found = Labelled(found.features, labels, train.class_names, asked.source)
    return make_test_set(train, found, asked)


def prefix_of(test: TestSet, tests: Sequence[TestSet]) -> str:
    """The start of a title in the results: the name of the test set, where there are several."""
    return f"{test.source}: " if len(tests) > 1 else ""


def over_tries(runs: Sequence[Scores], prefix: str) -> Results:
    """Scores by title; of several tries the mean, and the standard deviation."""
    found: Results = {}
    for name, title in ((name, f"{prefix}{TITLES[name]}") for name in runs[0]):
        values = [run[name] for run in runs]
        found[title] = mean(values)
        if len(runs) > 1:
            found[f"{title} std"] = pstdev(values)
    return found


def extract_features(
    options: argparse.Namespace, frozen: Frozen, dataset: EncodedImages, source: str, read: Read
) -> Labelled:
    """Features of a whole dataset, with the batch size and workers of the options."""
    return extract(
        frozen,
        dataset,
        source,
        read=read,
        batch_size=options.batch,
        num_workers=options.workers,
        progress=progress,
    )


def run_command(
    parser: argparse.ArgumentParser,
    evaluate: Callable[[argparse.Namespace, OpenModel], Results],
    csv_name: str,
) -> None:
    """Parse, evaluate, print on rank 0; on an error exit with its exit code."""
    options = parser.parse_args()
    try:
        carry_out(options, evaluate, csv_name, open_checkpoint)
    except Dinov3Error as error:
        note(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # --out cannot be written
        note(f"error: '{error.filename}': {error.strerror}")
        sys.exit(DataError.exit_code)


def carry_out(
    options: argparse.Namespace,
    evaluate: Callable[[argparse.Namespace, OpenModel], Results],
    csv_name: str,
    open_model: OpenModel,
) -> None:
    """Evaluate, then write and print the results on rank 0. Raises `Dinov3Error`, or OSError for --out."""
    results = evaluate(options, open_model)
    if get_rank() != 0:
        return
    if options.out is not None:
        _write(options, results, csv_name)
    if options.json:
        print(json.dumps(results))
    else:
        width = max(map(len, results))
        for name, value in results.items():
            print(f"{name:<{width}}  {value if isinstance(value, str) else shown(value)}")


def shown(value: float) -> str:
    """A result with two digits after the point, or four for a small one."""
    return format(value, ".2f" if abs(value) >= 1 or not value else ".4f")


def note(line: str) -> None:
    """Print a line to stderr."""
    print(line, file=sys.stderr)


def progress(line: str) -> None:
    """Print a progress line that overwrites itself, if stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)


def _write(options: argparse.Namespace, results: Results, csv_name: str) -> None:
    """eval_config.json (options), results.json (options and results), and the results as CSV."""
    options.out.mkdir(parents=True, exist_ok=True)
    settings = vars(options)
    (options.out / "eval_config.json").write_text(json.dumps(settings, indent=2, default=str) + "\n")
    report = {"evaluation": csv_name.removeprefix("results-").removesuffix(".csv"), "settings": settings}
    with replacing(options.out / "results.json") as draft:
        draft.write_text(json.dumps(report | {"results": results}, indent=2, default=str) + "\n")
    with (options.out / csv_name).open("w", newline="") as file:
        rows = csv.DictWriter(file, results)
        rows.writeheader()
        rows.writerow(results)
