"""Images per second and time spent waiting for data."""

from __future__ import annotations

import time

from dinov3_ref.train.logging.throughput import Throughput


def test_images_per_second_and_waiting() -> None:
    throughput = Throughput()
    with throughput.waiting_for(6):
        time.sleep(0.02)
    time.sleep(0.02)
    read = throughput.read()
    assert 0.1 < read["data_share"] < 0.9
    assert 10 < read["images_per_second"] < 150  # 6 in 40 ms, or longer on a busy machine
    assert throughput.read()["images_per_second"] == 0


def test_paused_time_does_not_count() -> None:
    throughput = Throughput()
    with throughput.waiting_for(6):
        time.sleep(0.01)
    with throughput.paused():
        time.sleep(0.2)
    assert throughput.read()["images_per_second"] > 30  # and not 6 in 0.21 s
