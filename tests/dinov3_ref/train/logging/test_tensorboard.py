"""TensorBoard scalars, and a note if it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dinov3_ref.train.logging.tensorboard import Scalars

RECORD = {"iteration": 9, "total_loss": 4.25, "lr": 1e-3, "images_per_second": 30.0, "data_share": 0.5}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_scalars_of_a_resumed_run(tmp_path: Path) -> None:
    first = Scalars(tmp_path, 0)
    for iteration in range(4):
        first.write({"iteration": iteration, "total_loss": 4.0 - iteration})
    first.close()
    again = Scalars(tmp_path, 2)
    again.write({"iteration": 2, "total_loss": 0.5})
    again.close()
    assert scalars(tmp_path) == {"total_loss": [(0, 4.0), (1, 3.0), (2, 0.5)]}


def test_without_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for wanted in (True, False):
        nothing = Scalars(tmp_path, 0, wanted=wanted)
        nothing.write(RECORD)
        nothing.close()
    assert capsys.readouterr().err.count("note: TensorBoard is not installed") == 1
    assert not list(tmp_path.iterdir())
