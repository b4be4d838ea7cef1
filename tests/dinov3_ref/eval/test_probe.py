"""Training and resuming a linear probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinov3_ref.errors import DataError
from dinov3_ref.eval.probe import LEARNING_RATES, LinearClassifiers, LinearProbe, ProbeOptions, rows_at_random
from tests.support.images.labelled_features import NAMES, digits


def probe(options: ProbeOptions, folder: Path | None = None) -> LinearProbe:
    return LinearProbe(digits()[1], NAMES, options, folder=folder)


def test_digits_are_classified() -> None:
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


def test_a_resumed_probe_is_bit_exact(tmp_path: Path) -> None:
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


def test_resuming_needs_a_matching_checkpoint(tmp_path: Path) -> None:
    options = ProbeOptions(epochs=1, epoch_length=1, batch=16)
    with pytest.raises(DataError, match=r"holds no checkpoint\.pth to resume"):
        probe(options, tmp_path).load()
    probe(options, tmp_path).run(rows_at_random(digits()[0], 16, 0))
    with pytest.raises(DataError, match="has other classifiers"):
        probe(ProbeOptions(epochs=1, epoch_length=1, batch=32), tmp_path).load()


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"batch": 0}, {"last_blocks": ()}, {"last_blocks": (0,)}])
def test_bad_options_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="wanted"):
        ProbeOptions(**changes)


def test_the_grid_is_the_specified_one() -> None:
    assert len(LEARNING_RATES) == 13
    assert (LEARNING_RATES[0], LEARNING_RATES[-1]) == (1e-5, 0.1)
    grid = LinearClassifiers({1: 8, 4: 20}, classes=3, batch=1024)
    assert len(grid.heads) == 26
    name = "classifier_4_blocks_avgpool_True_lr_0_40000"  # 0.1 x 1024 / 256
    assert grid.rates[name] == pytest.approx(0.4)
    assert grid.heads[name].weight.shape == (3, 20)
    assert grid.heads["classifier_1_blocks_avgpool_True_lr_0_00004"].bias.tolist() == [0, 0, 0]


def test_initial_weights_are_small() -> None:
    torch.manual_seed(0)
    grid = LinearClassifiers({1: 500}, classes=100, batch=256, rates=[0.1])
    weight = next(iter(grid.heads.values())).weight.detach()
    assert float(weight.std()) == pytest.approx(0.01, rel=0.01)
    assert float(weight.mean()) == pytest.approx(0, abs=2e-4)


def test_small_batches_keep_all_thirteen_rates() -> None:
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
