"""Progress on stderr: lines, or a live bar in a terminal."""

from __future__ import annotations

import sys

import pytest

from dinov3_ref.train.logging.progress import Progress

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
