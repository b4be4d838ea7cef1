"""The log of a run: lines about evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinov3_ref.train.logging.run_log import RunLog
from tests.support.toy_training import tiny_training


def test_evaluations_are_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tiny_training(f"train.output_dir={tmp_path / 'run'}"), 0, 20)
    log.evaluated(9, {"knn_10_top1": 50.0})
    log.evaluated(19, {})
    log.close()
    assert capsys.readouterr().err == "10: knn_10_top1 50.00\n20: images drawn\n"
