"""The log of a run: lines about evaluations."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dinov3_ref.train.logging.run_log import MetricsFile, Progress, RunLog, Scalars, read_metrics
from tests.support.training.toy_training import tiny_training


def test_evaluations_are_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tiny_training(f"train.output_dir={tmp_path / 'run'}"), 0, 20)
    log.evaluated(9, {"knn_10_top1": 50.0})
    log.evaluated(19, {})
    log.close()
    assert capsys.readouterr().err == "10: knn_10_top1 50.00\n20: images drawn\n"


def test_later_and_incomplete_lines_are_dropped(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path, start=0)
    for iteration in range(4):
        file.append({"iteration": iteration, "total_loss": 0.1 * iteration})
    with file.path.open("a") as stream:
        stream.write('{"iteration": 4, "to')
    assert [record["iteration"] for record in read_metrics(tmp_path)] == [0, 1, 2, 3]
    again = MetricsFile(tmp_path, start=2)
    again.append({"iteration": 2, "total_loss": 0.5})
    assert read_metrics(tmp_path)[-2:] == [
        {"iteration": 1, "total_loss": 0.1},
        {"iteration": 2, "total_loss": 0.5},
    ]


def test_a_run_without_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


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


RECORD = {"iteration": 9, "total_loss": 4.25, "lr": 1e-3, "images_per_second": 30.0, "data_share": 0.5}


def test_one_line_per_record(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(0, 20)
    progress.advance(9)
    progress.show(RECORD)
    progress.close()
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "10/20  total_loss 4.25  lr 0.001  images_per_second 30  data_share 0.5\n"


def test_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    progress = Progress(5, 20)
    progress.advance(9)
    progress.show(RECORD)
    progress.log("10: knn_10_top1 50.00 [bold]")
    progress.close()
    told = capsys.readouterr().err
    assert "10/20" in told
    assert "total_loss 4.25" in told
    assert "knn_10_top1 50.00 [bold]" in told
