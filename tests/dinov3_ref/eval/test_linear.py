"""The linear probe: grid, one step by hand, resume, and the command on digits and photographs.

Source: docs/spec.md 5.2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dinov3_ref.checkpoints import load_checkpoint, random_checkpoint, save_checkpoint
from dinov3_ref.checkpoints.load import build_model
from dinov3_ref.errors import DataError
from dinov3_ref.eval import linear
from dinov3_ref.eval.classifiers import LEARNING_RATES, LinearClassifiers
from dinov3_ref.eval.features import FrozenModel, last_blocks, probe_input
from dinov3_ref.eval.labelled import Labelled
from dinov3_ref.eval.probe import LinearProbe, ProbeOptions, rows_at_random
from tests.support.image_files import write_folder
from tests.support.photographs import pixels
from tests.support.tiny_models import tiny_config

NAMES = tuple(map(str, range(10)))


def digits() -> tuple[Labelled, Labelled]:
    x, y = load_digits(return_X_y=True)
    features, labels = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    return (
        Labelled(features[:1200], labels[:1200], NAMES, "train"),
        Labelled(features[1200:], labels[1200:], NAMES, "test"),
    )


# ---- the grid -----------------------------------------------------------------------------------


def test_the_grid_of_the_specification() -> None:
    assert len(LEARNING_RATES) == 13
    assert (LEARNING_RATES[0], LEARNING_RATES[-1]) == (1e-5, 0.1)
    grid = LinearClassifiers({1: 8, 4: 20}, classes=3, batch=1024)
    assert len(grid.heads) == 26
    name = "classifier_4_blocks_avgpool_True_lr_0_40000"  # 0.1 x 1024 / 256
    assert grid.rates[name] == pytest.approx(0.4)
    assert grid.heads[name].weight.shape == (3, 20)
    assert grid.heads["classifier_1_blocks_avgpool_True_lr_0_00004"].bias.tolist() == [0, 0, 0]


def test_weights_start_small() -> None:
    torch.manual_seed(0)
    grid = LinearClassifiers({1: 500}, classes=100, batch=256, rates=[0.1])
    weight = next(iter(grid.heads.values())).weight.detach()
    assert float(weight.std()) == pytest.approx(0.01, rel=0.01)
    assert float(weight.mean()) == pytest.approx(0, abs=2e-4)


def test_a_small_batch_keeps_all_thirteen() -> None:
    """1e-5 and 2e-5 times 16/256 both round to 0_00000."""
    grid = LinearClassifiers({1: 8}, classes=2, batch=16)
    assert len(grid.heads) == len(set(grid.rates.values())) == 13


def test_one_step_by_hand() -> None:
    """Zero weights, two classes, input 2 of class 0: softmax .5, gradient -1 and 1, weights lr and -lr."""
    grid = LinearClassifiers({1: 1}, classes=2, batch=256, rates=[0.1, 0.02])
    for head in grid.heads.values():
        torch.nn.init.zeros_(head.weight)
    optimiser, scheduler = grid.optimiser(steps=4)
    loss = grid.loss({1: torch.tensor([[2.0]])}, torch.tensor([0]))
    assert loss.item() == pytest.approx(2 * np.log(2))  # the sum of both classifiers'
    loss.backward()
    optimiser.step()
    weights = [head.weight.flatten().tolist() for head in grid.heads.values()]
    assert weights == [pytest.approx([0.1, -0.1]), pytest.approx([0.02, -0.02])]
    rates = []
    for _ in range(4):
        scheduler.step()
        rates.append(optimiser.param_groups[0]["lr"])
    # 0.1 (1 + cos(pi i / 4)) / 2
    assert rates == pytest.approx([0.0853553, 0.05, 0.0146447, 0.0], abs=1e-7)
    assert optimiser.defaults["momentum"] == 0.9


def test_the_input_is_cls_of_the_last_blocks_and_the_mean_patch() -> None:
    checkpoint = random_checkpoint(tiny_config())
    frozen = FrozenModel(build_model(checkpoint), torch.device("cpu"), (), ())
    x = pixels(["chelsea", "rocket"], 48, 64)
    blocks = last_blocks(frozen, x, 2)
    features = frozen.model.forward_features(x)
    one = probe_input(blocks, 1)
    expected = torch.cat([features["x_norm_clstoken"], features["x_norm_patchtokens"].mean(1)], -1)
    torch.testing.assert_close(one, expected.detach())
    two = probe_input(blocks, 2)
    assert two.shape == (2, 3 * 128)
    assert torch.equal(two[:, 128:], one)  # so the narrower input is the end of the wider one


# ---- training -----------------------------------------------------------------------------------


def probe(options: ProbeOptions, folder: Path | None = None) -> LinearProbe:
    return LinearProbe(digits()[1], NAMES, options, folder=folder)


def test_digits_are_learnt() -> None:
    """Pixels are features enough: measured 88.8 after 300 steps; guessing gives 10."""
    train, _ = digits()
    options = ProbeOptions(epochs=3, epoch_length=100, batch=64)
    lines: list[str] = []
    result = probe(options).run(rows_at_random(train, 64, 0), lines.append)
    assert result.top1 > 80
    assert result.top5 > 99
    assert result.best_top1 >= result.top1
    assert "lr_0_0" in result.name
    assert len(lines) == 3


def test_a_stopped_probe_goes_on_exactly(tmp_path: Path) -> None:
    train, _ = digits()
    options = ProbeOptions(epochs=3, epoch_length=20, batch=16)
    whole = probe(options, tmp_path / "whole")
    whole.run(rows_at_random(train, 16, 0))

    class Stop(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("epoch 2"):
            raise Stop

    with pytest.raises(Stop):
        probe(options, tmp_path / "cut").run(rows_at_random(train, 16, 0), stop)
    resumed = probe(options, tmp_path / "cut")
    resumed.load()
    assert resumed.epoch == 2
    resumed.run(rows_at_random(train, 16, 0))
    for (name, a), b in zip(whole.grid.state_dict().items(), resumed.grid.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert resumed.best_top1 == whole.best_top1
    head = torch.load(tmp_path / "cut" / "linear_head.pth", weights_only=True)
    assert {key: list(value.shape) for key, value in head.items()} == {"weight": [10, 64], "bias": [10]}


def test_resuming_what_is_not_there_or_another(tmp_path: Path) -> None:
    options = ProbeOptions(epochs=1, epoch_length=1, batch=16)
    with pytest.raises(DataError, match=r"holds no checkpoint\.pth to resume"):
        probe(options, tmp_path).load()
    probe(options, tmp_path).run(rows_at_random(digits()[0], 16, 0))
    with pytest.raises(DataError, match="is of other classifiers"):
        probe(ProbeOptions(epochs=1, epoch_length=1, batch=32), tmp_path).load()


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"batch": 0}, {"last_blocks": ()}, {"last_blocks": (0,)}])
def test_numbers_that_make_no_probe(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="wanted"):
        ProbeOptions(**changes)


# ---- the command --------------------------------------------------------------------------------


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
        (("--last-blocks", 2), "--last-blocks wants a model"),
        (("--epochs", 0), "epochs is 0; wanted 1 at least"),
        (("--resume",), "holds no checkpoint.pth to resume"),
    ],
)
def test_mistakes_are_one_line(
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
    assert "--last-blocks 4 of a model that has 3; ask for fewer" in capsys.readouterr().err


def test_options_are_pinned() -> None:
    options = {option for action in linear.parser()._actions for option in action.option_strings}
    assert options == {
        "-h", "--help", "--train", "--test", "--weights", "--size", "--batch", "--workers", "--device",
        "--autocast", "--out", "--json", "--epochs", "--epoch-length", "--last-blocks", "--no-augment",
        "--seed", "--resume",
    }  # fmt: skip
