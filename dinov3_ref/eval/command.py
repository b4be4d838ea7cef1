"""Shared by the evaluation commands: options, feature extraction, output.

Results go to stdout (a table or JSON) and with --out to files; notes go to stderr. An error is one line, with
its exit code.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

from dinov3_ref.data.datasets import EncodedImages, make_dataset
from dinov3_ref.data.transforms import make_classification_eval_transform
from dinov3_ref.distributed import get_rank
from dinov3_ref.errors import DataError, Dinov3Error
from dinov3_ref.eval.features import AUTOCAST, FrozenModel, Read, extract
from dinov3_ref.eval.labelled import Labelled, check_pair
from dinov3_ref.models import stride_of

Results = dict[str, float | str]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for images, model and output."""
    parser.add_argument("--train", required=True, help="labelled dataset; without --weights, embeddings")
    parser.add_argument(
        "--test", required=True, help="test data of the same kind; its classes must be in --train"
    )
    parser.add_argument(
        "--weights", help="checkpoint in any layout; without it, --train and --test are embeddings"
    )
    parser.add_argument("--size", type=int, default=224, help="centre crop size in pixels (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images per batch (%(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="data loading processes (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: cuda if available")
    parser.add_argument(
        "--autocast", choices=AUTOCAST, default="none", help="autocast dtype of the model (%(default)s)"
    )
    parser.add_argument("--out", type=Path, help="folder for options and results")
    parser.add_argument("--json", action="store_true", help="print results as JSON")


def open_datasets(options: argparse.Namespace, frozen: FrozenModel) -> tuple[EncodedImages, EncodedImages]:
    """(train, test), both with the evaluation transform. Raises `DataError`."""
    patch_size = stride_of(frozen.model)
    if options.size < patch_size or options.size % patch_size:
        raise DataError(
            f"--size {options.size} is not a multiple of the patch size; wanted a multiple of {patch_size}"
        )
    transform = make_classification_eval_transform(crop_size=options.size, mean=frozen.mean, std=frozen.std)
    train, test = (
        make_dataset(text, labelled=True, transform=transform) for text in (options.train, options.test)
    )
    check_pair(train.class_names, options.train, test.class_names, options.test)
    return train, test


def extract_features(
    options: argparse.Namespace, frozen: FrozenModel, dataset: EncodedImages, source: str, read: Read
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
    evaluate: Callable[[argparse.Namespace], Results],
    csv_name: str,
) -> None:
    """Parse, evaluate, print on rank 0; on an error exit with its exit code."""
    options = parser.parse_args()
    try:
        results = evaluate(options)
        if get_rank() != 0:
            return
        if options.out is not None:
            _write(options, results, csv_name)
    except Dinov3Error as error:
        note(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # --out cannot be written
        note(f"error: '{error.filename}': {error.strerror}")
        sys.exit(DataError.exit_code)
    if options.json:
        print(json.dumps(results))
    else:
        width = max(map(len, results))
        for name, value in results.items():
            print(f"{name:<{width}}  {value if isinstance(value, str) else format(value, '.2f')}")


def note(line: str) -> None:
    """Print a line to stderr."""
    print(line, file=sys.stderr)


def progress(line: str) -> None:
    """Print a progress line that overwrites itself, if stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)


def _write(options: argparse.Namespace, results: Results, csv_name: str) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "eval_config.json").write_text(json.dumps(vars(options), default=str, indent=2) + "\n")
    with (options.out / csv_name).open("w", newline="") as file:
        rows = csv.DictWriter(file, results)
        rows.writeheader()
        rows.writerow(results)
