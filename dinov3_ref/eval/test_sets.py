"""Test sets of one classifier: their class maps, their true labels, and how each is judged.

A class map says which training classes a class of the test set means. Predictions are then made among these
training classes only, as published for ImageNet-A, ImageNet-R and ObjectNet (docs/spec.md 5.2):

    own        every class of the test set means the training class of the same name
    map.tsv    lines of TEST<TAB>TRAIN; several lines of one test class give it several training classes;
               images of classes without a line are left out
    map.txt    one training class per line, for the classes of the test set in their order
    map.npy    the same as integers [classes]

Training classes are named, or numbered from 0 in their sorted order.

Shapes: M test images, D embed_dim, C training classes, K classes of the test set.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinov3_ref.data.datasets import EncodedImages
from dinov3_ref.errors import DataError, reason_of
from dinov3_ref.eval.labelled import Labelled, check_pair, renumber
from dinov3_ref.eval.metrics import METRICS, Scores
from dinov3_ref.json_file import read_json

NONE = "-"  # on the command line: no class map, no file of true labels
OWN = "own"


@dataclass(frozen=True)
class TestOptions:
    """One test set as the command line names it."""

    __test__ = False  # not a class of tests

    source: str
    class_map: str = NONE
    true_labels: str = NONE
    metric: str | None = None


@dataclass(frozen=True, eq=False)
class TestSet:
    """Features of a test set, and how scores of the training classes are judged on it."""

    __test__ = False

    source: str
    features: Tensor  # [M,D]
    labels: Tensor  # long [M], or bool [M,K]; they number the columns of `judged_scores`
    groups: tuple[tuple[int, ...], ...] | None  # training classes of each class; None: the same classes
    metric: str

    @property
    def plain(self) -> bool:
        """Whether labels are numbers of training classes: such a set can choose a classifier."""
        return self.groups is None and self.labels.ndim == 1

    def judge(self, score_MC: Tensor, labels: Tensor | None = None) -> Scores:
        """Scores of the training classes -> what the metric measures. labels: of all ranks, if gathered."""
        truth = self.labels if labels is None else labels
        return METRICS[self.metric][0](self.judged_scores(score_MC), truth.to(score_MC.device))

    def judged_scores(self, score_MC: Tensor) -> Tensor:
        """The best score among the training classes of each class: [M,K]."""
        if self.groups is None:
            return score_MC
        if all(len(group) == 1 for group in self.groups):
            return score_MC[:, [group[0] for group in self.groups]]
        return torch.stack([score_MC[:, list(group)].amax(1) for group in self.groups], dim=1)


def add_test_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how the sets of --test are judged."""
    parser.add_argument(
        "--class-map",
        nargs="+",
        default=[NONE],
        metavar="MAP",
        help="classes of each test set: own, or a file (tsv, txt, npy); - for none; one for all or one each",
    )
    parser.add_argument(
        "--true-labels",
        nargs="+",
        default=[NONE],
        metavar="FILE",
        help="JSON with all true labels of each image, as of ImageNet-ReaL; - for none",
    )
    parser.add_argument(
        "--metric",
        nargs="+",
        choices=METRICS,
        help="default: accuracy; for several labels per image any-match, or mean-precision if the training "
        "images have several too",
    )


def options_per_set(options: argparse.Namespace) -> list[TestOptions]:
    """One entry per --test. Raises `DataError` for a number of values that does not fit."""
    count = len(options.test)

    def each(name: str, values: Sequence[Any] | None) -> Sequence[Any]:
        if not values:
            return [None] * count
        if len(values) not in (1, count):
            raise DataError(
                f"{len(values)} values of {name} for {count} test sets; wanted one for all, or one each"
            )
        return list(values) * (count if len(values) == 1 else 1)

    columns = (
        options.test,
        each("--class-map", options.class_map),
        each("--true-labels", options.true_labels),
        each("--metric", options.metric),
    )
    return [TestOptions(*row) for row in zip(*columns, strict=True)]


def make_test_set(train: Labelled, test: Labelled, asked: TestOptions) -> TestSet:
    """Fit the labels of `test` to the classes of `train`. Raises `DataError`."""
    groups, labels, features = None, test.labels, test.features
    if asked.class_map == NONE:
        check_pair(train.class_names, train.source, test.class_names, test.source)
        labels = renumber(labels, test.class_names, train.class_names)
    else:
        if labels.ndim > 1:
            raise DataError(
                f"'{test.source}' has several labels per image; a class map needs one: use - for it"
            )
        kept, groups = read_class_map(asked.class_map, train.class_names, test.class_names)
        rows = torch.isin(labels, torch.tensor(kept))
        if not rows.any():
            raise DataError(f"'{asked.class_map}' maps no class of '{test.source}'; wanted its class names")
        number = torch.full((len(test.class_names),), -1)
        number[kept] = torch.arange(len(kept))
        features, labels = features[rows], number[labels[rows]]
    several = labels.ndim > 1
    metric = asked.metric or _usual_metric(train, several)
    if METRICS[metric][1] and not several:
        raise DataError(
            f"--metric {metric} needs all labels of each image; give --true-labels for '{test.source}'"
        )
    if several and not METRICS[metric][1]:
        raise DataError(
            f"--metric {metric} needs one label per image, '{test.source}' has several; use any-match"
        )
    return TestSet(asked.source, features, labels, groups, metric)


def _usual_metric(train: Labelled, several: bool) -> str:
    if not several:
        return "accuracy"
    return "any-match" if train.labels.ndim == 1 else "mean-precision"


def read_class_map(
    text: str, train_names: Sequence[str], test_names: Sequence[str]
) -> tuple[list[int], tuple[tuple[int, ...], ...]]:
    """(numbers of the test classes that are judged, training classes of each). Raises `DataError`."""
    path = Path(text)
    if text == OWN:
        pairs = [(name, name) for name in test_names]
    else:
        try:
            pairs = list(_pairs(path, test_names))
        except (OSError, ValueError) as error:
            raise DataError(f"'{text}' cannot be read as a class map: {reason_of(error)}") from error
    meant: dict[str, list[int]] = {}
    for name, target in pairs:
        meant.setdefault(name, []).append(_class_number(target, train_names, f"class map {text!r}"))
    judged = [index for index, name in enumerate(test_names) if name in meant]
    return judged, tuple(tuple(meant[test_names[index]]) for index in judged)


def _pairs(path: Path, test_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(test class, training class) of a file."""
    if path.suffix == ".npy":
        numbers = np.load(path, allow_pickle=False)
        lines = [str(int(number)) for number in numbers.ravel()]
    else:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if path.suffix == ".tsv" or any("\t" in line for line in lines):
        for line in lines:
            name, tab, target = line.partition("\t")
            if not tab:
                raise ValueError(f"line {line!r} has no tab; wanted TEST<TAB>TRAIN")
            yield name.strip(), target.strip()
        return
    if len(lines) != len(test_names):
        raise ValueError(
            f"it has {len(lines)} classes, the test set has {len(test_names)}; wanted one line each"
        )
    yield from zip(test_names, lines, strict=True)


def _class_number(name: str | int, names: Sequence[str], where: str) -> int:
    """The number of a class from its name, or from its number. Raises `DataError`."""
    if name in names:
        return names.index(name)
    if str(name).isdecimal() and int(name) < len(names):
        return int(name)
    raise DataError(f"{where}: {name!r} is no training class; wanted a name, or 0 to {len(names) - 1}")


# ---- true labels --------------------------------------------------------------------------------


def number_rows(dataset: EncodedImages) -> None:
    """Make the label of each image its row, for `true_labels` after broken images were skipped."""
    dataset.labels = np.arange(len(dataset))
    dataset.class_names = ()


def true_labels(path: str, dataset: EncodedImages, rows: Tensor, train_names: Sequence[str]) -> Tensor:
    """All labels of the images `rows`: bool [M,C].

    The file is a list with a list of classes per image, in the order of the file names, as the file of
    ImageNet-ReaL; or an object: file name -> list. Raises `DataError`.
    """
    read = read_json(Path(path), "true labels", DataError)
    names = [PurePath(dataset.name(index)).name for index in range(len(dataset))]
    by_name: Mapping[str, Any]
    if isinstance(read, list):
        if len(read) != len(names) or len(set(names)) != len(names):
            raise DataError(
                f"'{path}' has labels of {len(read)} images, the test set has {len(names)} images with "
                f"{len(set(names))} different file names; wanted the same number, or an object by file name"
            )
        by_name = dict(zip(sorted(names), read, strict=True))
    else:
        by_name = read if isinstance(read, dict) else {}
    found = torch.zeros(len(rows), len(train_names), dtype=torch.bool)
    for place, row in enumerate(rows.tolist()):
        labels = by_name.get(names[row])
        if not isinstance(labels, list):
            raise DataError(f"'{path}' has no list of labels for {names[row]!r}; wanted one for every image")
        for label in labels:
            found[place, _class_number(label, train_names, f"'{path}'")] = True
    return found
