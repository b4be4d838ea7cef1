"""Records reach Weights & Biases and MLflow, each through its own calls (stand-ins record these)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dinov3_ref.errors import ConfigError
from dinov3_ref.train.logging.trackers import open_trackers

CONFIG = {"optim": {"lr": 0.1}, "train": {"trackers": ["wandb"], "empty": {}}}
RECORD = {"iteration": 7, "lr": 0.5, "total_loss": 2}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []

    def record(name: str, result: Any = None) -> Any:
        return lambda *words, **named: (seen.append((name, words, named)), result)[1]

    run = SimpleNamespace(log=record("log"), finish=record("finish"), info=SimpleNamespace(run_id="abc"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=record("init", run)))
    names = ("log_params", "log_metrics", "end_run")
    flow = SimpleNamespace(start_run=record("start_run", run), **{name: record(name) for name in names})
    monkeypatch.setitem(sys.modules, "mlflow", flow)
    return seen


def test_wandb_gets_the_run_and_its_numbers(calls: list[Any], tmp_path: Path) -> None:
    for _ in range(2):  # resumed: the same run
        (tracker,) = open_trackers(["wandb"], tmp_path / "flowers", CONFIG)
        tracker.write(RECORD)
        tracker.close()
    first, second = (named for name, _, named in calls if name == "init")
    assert first == second
    assert (first["name"], first["resume"], first["config"]) == ("flowers", "allow", CONFIG)
    assert ("log", ({"lr": 0.5, "total_loss": 2.0},), {"step": 7}) in calls
    assert calls[-1][0] == "finish"


def test_mlflow_resumes_its_run(calls: list[Any], tmp_path: Path) -> None:
    for _ in range(2):
        (tracker,) = open_trackers(["mlflow"], tmp_path, CONFIG)
        tracker.write(RECORD)
        tracker.close()
    started = [named for name, _, named in calls if name == "start_run"]
    assert started == [{"run_name": tmp_path.name}, {"run_id": "abc"}]
    parameters = [words[0] for name, words, _ in calls if name == "log_params"]
    assert parameters == [{"optim.lr": "0.1", "train.trackers": "['wandb']", "train.empty": "{}"}]
    assert ("log_metrics", ({"lr": 0.5, "total_loss": 2.0},), {"step": 7}) in calls


def test_an_unknown_or_missing_tracker_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="has 'neptune'; wanted some of wandb, mlflow"):
        open_trackers(["neptune"], tmp_path, CONFIG)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb is not installed: pip install wandb"):
        open_trackers(["wandb"], tmp_path, CONFIG)


def test_a_tracker_that_fails_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*words: Any, **named: Any) -> None:
        raise RuntimeError("no server")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=away))
    with pytest.raises(ConfigError, match="wandb, which cannot start: no server"):
        open_trackers(["wandb"], tmp_path, CONFIG)
    run = SimpleNamespace(log=away, finish=away)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **named: run))
    (tracker,) = open_trackers(["wandb"], tmp_path, CONFIG)
    tracker.write(RECORD)
    tracker.write(RECORD)
    tracker.close()
    assert capsys.readouterr().err == "note: wandb fails: no server; training goes on\n"
