"""Class maps, true labels and metrics of test sets (docs/spec.md 5.2)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3_ref.data.datasets import make_dataset
from dinov3_ref.errors import DataError
from dinov3_ref.eval.labelled import Labelled
from dinov3_ref.eval.test_sets import (
    TestOptions,
    add_test_options,
    make_test_set,
    number_rows,
    options_per_set,
    read_class_map,
    true_labels,
)

TRAIN = ("boat", "cat", "cot", "dog")


def rows(labels: Any, names: tuple[str, ...], source: str = "test") -> Labelled:
    labels = torch.as_tensor(labels)
    return Labelled(torch.arange(len(labels), dtype=torch.float32)[:, None], labels, names, source)


train = rows([0, 1, 2, 3], TRAIN, "train")
# best training class of each image: dog, boat, cat
SCORES = torch.tensor([[0.0, 0.1, 0.2, 0.7], [0.4, 0.3, 0.2, 0.1], [0.1, 0.6, 0.2, 0.1]])


def test_own_classes_restrict_the_predictions() -> None:
    """Among cat and dog the second image is a cat: right, though boat scores higher."""
    test = rows([1, 0, 0], ("cat", "dog"))
    whole = make_test_set(train, test, TestOptions("t"))
    own = make_test_set(train, test, TestOptions("t", "own"))
    assert whole.judge(SCORES)["top1"] == pytest.approx(200 / 3)
    assert own.judge(SCORES)["top1"] == 100.0
    assert own.judged_scores(SCORES).shape == (3, 2)
    assert [whole.plain, own.plain] == [True, False]


def test_a_class_may_mean_several_and_others_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "map.tsv").write_text("feline\tcat\nbed\tcot\nbed\tboat\n")
    test = rows([0, 1, 2], ("bed", "feline", "unknown"))
    found = make_test_set(train, test, TestOptions("t", str(tmp_path / "map.tsv")))
    assert found.groups == ((2, 0), (1,))
    assert found.labels.tolist() == [0, 1]  # the image of `unknown` is gone
    assert found.features.flatten().tolist() == [0.0, 1.0]
    torch.testing.assert_close(found.judged_scores(SCORES[1:]), torch.tensor([[0.4, 0.3], [0.2, 0.6]]))


@pytest.mark.parametrize("suffix", ["txt", "npy"])
def test_one_training_class_per_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"map.{suffix}"
    if suffix == "npy":
        np.save(path, np.array([3, 1]))
    else:
        path.write_text("dog\n1\n")
    assert read_class_map(str(path), TRAIN, ("x", "y")) == ([0, 1], ((3,), (1,)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cat\tcat\n", "maps no class of 'test'"),
        ("x\tcow\n", "'cow' is no training class; wanted a name, or 0 to 3"),
        ("x\tcat\ndog\n", "line 'dog' has no tab"),
        ("cat\n", "1 classes, the test set has 2; wanted one line each"),
    ],
)
def test_bad_maps_are_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text(text)
    with pytest.raises(DataError, match=words) as error:
        make_test_set(train, rows([0, 1], ("x", "y")), TestOptions("t", str(tmp_path / "map.txt")))
    assert "\n" not in str(error.value)


def test_true_labels_by_order_and_by_name(tmp_path: Path) -> None:
    """As ImageNet-ReaL: in the order of the file names, although folders sort otherwise."""
    for name in ("b/val_1", "a/val_2", "a/val_3"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{name}.png")
    dataset = make_dataset(str(tmp_path / "images"))
    number_rows(dataset)
    labels = {"val_1.png": [1, 3], "val_2.png": [], "val_3.png": ["boat"]}
    (tmp_path / "list.json").write_text(json.dumps(list(labels.values())))
    (tmp_path / "object.json").write_text(json.dumps(labels))
    asked = torch.tensor([2, 0])  # b/val_1, a/val_2
    for name in ("list.json", "object.json"):
        found = true_labels(str(tmp_path / name), dataset, asked, TRAIN)
        assert found.tolist() == [[False, True, False, True], [False] * 4]
    (tmp_path / "list.json").write_text("[[1]]")
    with pytest.raises(DataError, match="labels of 1 images, the test set has 3"):
        true_labels(str(tmp_path / "list.json"), dataset, asked, TRAIN)


def test_metrics_follow_the_labels() -> None:
    several = rows(torch.eye(4, dtype=torch.bool)[[3, 0, 1]], TRAIN)
    assert make_test_set(train, several, TestOptions("t")).metric == "any-match"
    assert make_test_set(several, several, TestOptions("t")).metric == "mean-precision"
    with pytest.raises(DataError, match="accuracy needs one label per image"):
        make_test_set(train, several, TestOptions("t", metric="accuracy"))
    with pytest.raises(DataError, match="any-match needs all labels of each image"):
        make_test_set(train, train, TestOptions("t", metric="any-match"))


def test_options_are_one_for_all_or_one_each() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--test", nargs="+")
    add_test_options(parser)
    options = parser.parse_args(["--test", "a", "b", "--class-map", "own", "-", "--metric", "mean-per-class"])
    assert options_per_set(options) == [
        TestOptions("a", "own", "-", "mean-per-class"),
        TestOptions("b", "-", "-", "mean-per-class"),
    ]
    options = parser.parse_args(["--test", "a", "b", "c", "--class-map", "own", "-"])
    with pytest.raises(DataError, match="2 values of --class-map for 3 test sets"):
        options_per_set(options)
