"""Evaluations on bundles give what they give on the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.heads.evaluate import evaluate
from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from dinov3_ref.errors import DataError
from dinov3_ref.heads import load_head
from exporters.heads import add_head
from tests.support.images.dense_layouts import write_ade20k, write_nyu
from tests.support.images.labelled_images import write_digits
from tests.support.tiny_models import tiny_config


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of `four_maps_bundle`."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_checkpoint(random_checkpoint(tiny_config(depth=4), 0), "official", path)
    return path


def found(capsys: pytest.CaptureFixture[str], task: str, *arguments: object) -> dict[str, Any]:
    evaluate(task, [*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("task", ["knn", "logistic"])
def test_classification(
    task: str, four_maps_bundle: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = write_digits(tmp_path / "digits", each=8, kinds=3)
    both = "--train", digits, "--test", digits, "--size", 32, *(["--C", 1.0] if task == "logistic" else [])
    assert found(capsys, task, "--engine", four_maps_bundle, "--device", "cpu", *both) == pytest.approx(
        found(capsys, task, "--weights", weights, *both), abs=0.1
    )


@pytest.mark.slow
def test_a_segmenter_trained_on_the_engine_goes_into_the_bundle(
    four_maps_bundle: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training on engine and checkpoint agree; the bundle with the head scores the same by itself."""
    root = write_ade20k(tmp_path / "ade")
    size = "--size", 64, "--crop", 64, "--stride", 32
    train = "--train", f"ADE20K:root={root}", "--steps", 10, "--batch", 2, "--classes", 3
    test = "--test", f"ADE20K:split=VAL:root={root}", *size
    engine = "--engine", four_maps_bundle, "--device", "cpu"
    made = found(capsys, "segmentation", *engine, *train, *test, "--out", tmp_path / "out")
    assert made == pytest.approx(found(capsys, "segmentation", "--weights", weights, *train, *test), abs=0.5)
    head = load_head(tmp_path / "out" / "head.safetensors")
    headed = add_head(open_bundle(four_maps_bundle), head, tmp_path / "headed")[0].root
    own = found(capsys, "segmentation", "--engine", headed, "--device", "cpu", "--head", "own", *test)
    assert own == pytest.approx(made, abs=0.1)


def test_depth_on_the_engine(
    four_maps_bundle: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_nyu(tmp_path / "nyu")
    both = (
        "--train", f"NYU:root={root}", "--test", f"NYU:split=VAL:root={root}", "--steps", 4, "--batch", 2,
        "--crop-size", 48, 64, "--border", "none",
    )  # fmt: skip
    made = found(capsys, "depth", "--engine", four_maps_bundle, "--device", "cpu", *both)
    assert made == pytest.approx(found(capsys, "depth", "--weights", weights, *both), rel=1e-3)


def test_two_models_are_refused(four_maps_bundle: Path) -> None:
    with pytest.raises(DataError, match="name two models; give one"):
        evaluate("knn", ["--engine", str(four_maps_bundle), "--weights", "x", "--train", "a", "--test", "b"])


def test_autocast_is_for_checkpoints(four_maps_bundle: Path) -> None:
    words = f"--engine {four_maps_bundle} --autocast bf16 --train a --test b".split()
    with pytest.raises(DataError, match="precision is in its bundle"):
        evaluate("knn", words)
