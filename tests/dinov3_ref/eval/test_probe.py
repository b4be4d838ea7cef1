"""Training and resuming a linear probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dinov3_ref.errors import DataError
from dinov3_ref.eval.probe import LinearProbe, ProbeOptions, rows_at_random
from tests.support.labelled_features import NAMES, digits


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
