"""The file of metrics tells of one uninterrupted run, whatever happened."""

from __future__ import annotations

import time
from pathlib import Path

from dinov3_ref.train.logging.metrics import MetricsFile, read_metrics
from dinov3_ref.train.logging.throughput import Throughput


def test_lines_past_the_start_and_cut_short_are_dropped(tmp_path: Path) -> None:
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


def test_the_clock() -> None:
    clock = Throughput()
    with clock.waiting_for(6):
        time.sleep(0.02)
    time.sleep(0.02)
    read = clock.read()
    assert 0.1 < read["data_share"] < 0.9
    assert 10 < read["images_per_second"] < 150  # 6 in 40 ms, or longer on a busy machine
    assert clock.read()["images_per_second"] == 0


def test_the_clock_stops() -> None:
    clock = Throughput()
    with clock.waiting_for(6):
        time.sleep(0.01)
    with clock.paused():
        time.sleep(0.2)
    assert clock.read()["images_per_second"] > 30  # and not 6 in 0.21 s
