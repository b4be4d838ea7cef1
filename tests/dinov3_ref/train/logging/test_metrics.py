"""The metrics file reads like one uninterrupted run."""

from __future__ import annotations

from pathlib import Path

from dinov3_ref.train.logging.metrics import MetricsFile, read_metrics


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
