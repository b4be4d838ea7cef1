"""As many batches at once as the engine has lanes, in order, and an error ends the run."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from dinodeploy import MisuseError
from dinodeploy.pipeline.decode import Decoded
from dinodeploy.pipeline.lanes import run_ahead
from dinodeploy.pipeline.stages import Stages
from tests.support.fake_engine import embedder


def batch_of(value: int) -> list[Decoded]:
    return [Decoded(str(value), np.full((3, 2, 2), value, np.float32), (2, 2))]


class TwoLanes:
    """An engine that can run two batches at once, and remembers how many did."""

    def __init__(self) -> None:
        self.together = threading.Barrier(2, timeout=20)
        self.most = self.running = 0
        self.lock = threading.Lock()

    def run(self, pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        if pixels[0, 0, 0, 0] < 4:  # the first four wait for each other, in pairs
            self.together.wait()
        with self.lock:
            self.running -= 1
        return {"cls": pixels[:, 0, 0, :1]}


def test_as_many_batches_at_once_as_there_are_lanes() -> None:
    """Never one more, in order, and none lost."""
    engine = TwoLanes()
    batches = [batch_of(index) for index in range(7)]
    found = [
        (batch[0].id, float(outputs["cls"][0, 0]))
        for batch, outputs in run_ahead(embedder(engine.run, lanes=2), batches)
    ]
    assert found == [(str(i), float(i)) for i in range(7)]
    assert engine.most == 2


def test_an_empty_batch_keeps_its_place() -> None:
    """It marks the end of a shard."""
    seen: list[int] = []

    def run(pixels: Any) -> dict[str, Any]:
        seen.append(len(pixels))
        return {}

    batches = [batch_of(0), [], batch_of(1), [], []]
    assert [len(batch) for batch, _ in run_ahead(embedder(run), batches)] == [1, 0, 1, 0, 0]
    assert seen == [1, 1]


def test_one_batch_lies_ready_and_no_more() -> None:
    """Pixels are put together while the engine runs; memory holds two batches a lane."""
    taken = 0

    def batches() -> Any:
        nonlocal taken
        for index in range(10):
            taken += 1
            yield batch_of(index)

    for done, _ in enumerate(run_ahead(embedder(lambda pixels: {}), batches())):
        assert taken <= done + 2


def test_an_error_on_a_lane_ends_the_run() -> None:
    def run(pixels: Any) -> dict[str, Any]:
        if pixels[0, 0, 0, 0] == 1:
            raise MisuseError("33x32; wanted multiples")
        return {}

    with pytest.raises(MisuseError, match="33x32; wanted multiples"):
        list(run_ahead(embedder(run), [batch_of(index) for index in range(3)]))


def test_time_is_told_by_stage() -> None:
    stages = Stages()

    def run(pixels: Any) -> dict[str, Any]:
        threading.Event().wait(0.05)
        return {}

    list(run_ahead(embedder(run), [batch_of(0), batch_of(1)], stages))
    assert stages.worked["engine"] >= 0.1
    assert stages.waited["engine"] > 0.05
    assert stages.bottleneck == "engine"
