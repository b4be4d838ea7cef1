"""The training command: output, Ctrl-C, one-line errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dinov3_ref.train.__main__ import main
from dinov3_ref.train.step import TrainingStep
from tests.support.training.toy_training import tiny_run


def test_the_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OmegaConf.save(tiny_run(photos, tmp_path / "run"), tmp_path / "config.yaml")
    assert (
        main(
            [
                "--config",
                str(tmp_path / "config.yaml"),
                "optim.epochs=2",
                "teacher.warmup_teacher_temp_epochs=1",
            ]
        )
        == 0
    )
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'run'}/teacher\n"
    assert told.err.splitlines()[-1].startswith("4/4  total_loss ")


def test_ctrl_c_is_one_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingStep, "__call__", stop)
    OmegaConf.save(tiny_run(photos, tmp_path / "run"), tmp_path / "config.yaml")
    assert main(["--config", str(tmp_path / "config.yaml")]) == 130
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "stopped; run the same command again to resume from the newest checkpoint\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "toy_cpu"], "train.dataset_path is empty"),
        (["optim.lrr=1"], "at optim.lrr: Key 'lrr'"),
        (["train.dataset_path=/no/such/folder"], "is not a dataset"),
    ],
)
def test_misuse_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1
