"""What a run writes for people: scalars that TensorBoard reads, lines or a live bar on stderr."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dinov3_ref.train.logging.progress import Progress
from dinov3_ref.train.logging.run_log import RunLog
from dinov3_ref.train.logging.tensorboard import Scalars
from tests.support.toy_training import tiny_training

RECORD = {"iteration": 9, "total_loss": 4.25, "lr": 1e-3, "images_per_second": 30.0, "data_share": 0.5}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_reads_them_and_a_resumed_run_draws_anew(tmp_path: Path) -> None:
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


def test_a_line_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    display = Progress(0, 20)
    display.advance(9)
    display.show(RECORD)
    display.close()
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "10/20  total_loss 4.25  lr 0.001  images_per_second 30  data_share 0.5\n"


def test_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    display = Progress(5, 20)
    display.advance(9)
    display.show(RECORD)
    display.log("10: knn_10_top1 50.00 [bold]")
    display.close()
    told = capsys.readouterr().err
    assert "10/20" in told
    assert "total_loss 4.25" in told
    assert "knn_10_top1 50.00 [bold]" in told


def test_evaluations_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = RunLog(tiny_training(f"train.output_dir={tmp_path / 'run'}"), 0, 20)
    journal.evaluated(9, {"knn_10_top1": 50.0})
    journal.evaluated(19, {})
    journal.close()
    assert capsys.readouterr().err == "10: knn_10_top1 50.00\n20: images drawn\n"
