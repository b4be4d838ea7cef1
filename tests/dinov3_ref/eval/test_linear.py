"""The command of the linear probe (docs/spec.md 5.2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinov3_ref.checkpoints import load_checkpoint, random_checkpoint, save_checkpoint
from dinov3_ref.eval import linear
from tests.support.images.image_files import write_folder
from tests.support.images.labelled_features import digits
from tests.support.tiny_models import tiny_config


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["linear", *map(str, arguments), "--json"])
    linear.main()
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_checkpoint(random_checkpoint(tiny_config()), "official", path)
    return path


@pytest.mark.parametrize("extra", [(), ("--no-augment",), ("--last-blocks", 1, 3, "--workers", 1)])
def test_a_checkpoint_on_photographs(
    extra: tuple[object, ...],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos = write_folder(tmp_path / "photos")
    results = run(
        monkeypatch, capsys, "--weights", checkpoint, "--train", photos, "--test", photos, "--size", 32,
        "--batch", 8, "--epochs", 2, "--epoch-length", 15, "--out", tmp_path / "out", *extra,
    )  # fmt: skip
    assert list(results) == ["classifier", "Top 1", "Top 5", "best Top 1"]
    assert results["best Top 1"] > 60  # four of the six are of one class
    head = torch.load(tmp_path / "out" / "linear_head.pth", weights_only=True)
    blocks = int(results["classifier"].split("_")[1])
    assert head["weight"].shape[1] in {128 * (blocks + 1), 256, 512}
    assert (tmp_path / "out" / "results-linear.csv").is_file()
    assert load_checkpoint(checkpoint).arch == "custom"  # the model itself is left as it was


def test_files_with_and_without_patches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, one in zip(("train", "test"), digits(), strict=True):
        arrays = {"cls": one.features.numpy(), "labels": one.labels.numpy()}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        np.savez(tmp_path / f"{name}_p.npz", **arrays, patch_mean=arrays["cls"] * 2)
    common = ("--batch", 64, "--epochs", 1, "--epoch-length", 100, "--out", tmp_path / "out")
    run(monkeypatch, capsys, "--train", tmp_path / "train.npz", "--test", tmp_path / "test.npz", *common)
    assert torch.load(tmp_path / "out" / "linear_head.pth", weights_only=True)["weight"].shape == (10, 64)
    found = run(
        monkeypatch, capsys, "--train", tmp_path / "train_p.npz", "--test", tmp_path / "test_p.npz", *common
    )
    assert torch.load(tmp_path / "out" / "linear_head.pth", weights_only=True)["weight"].shape == (10, 128)
    assert found["Top 1"] > 70


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--last-blocks", 2), "--last-blocks needs --weights"),
        (("--epochs", 0), "epochs is 0; wanted at least 1"),
        (("--resume",), "holds no checkpoint.pth to resume"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[object, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.savez(tmp_path / "x.npz", cls=np.eye(4), labels=[0, 1, 0, 1])
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, capsys, "--train", tmp_path / "x.npz", "--test", tmp_path / "x.npz", *arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_more_blocks_than_the_model_has(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_folder(tmp_path / "photos")
    with pytest.raises(SystemExit):
        run(
            monkeypatch,
            capsys,
            "--weights",
            checkpoint,
            "--train",
            photos,
            "--test",
            photos,
            "--last-blocks",
            4,
        )
    assert "--last-blocks 4 of a model with 3 blocks; use fewer" in capsys.readouterr().err


def test_options_are_pinned() -> None:
    options = {option for action in linear.parser()._actions for option in action.option_strings}
    assert options == {
        "-h", "--help", "--train", "--test", "--weights", "--size", "--batch", "--workers", "--device",
        "--autocast", "--out", "--json", "--epochs", "--epoch-length", "--last-blocks", "--no-augment",
        "--seed", "--resume", "--class-map", "--true-labels", "--metric", "--val", "--shots", "--tries",
    }  # fmt: skip
