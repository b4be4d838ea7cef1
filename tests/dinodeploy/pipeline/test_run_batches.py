"""As many batches in parallel as the engine has sessions, in order; an error ends the run."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from dinodeploy import MisuseError
from dinodeploy.pipeline.decode import Decoded
from dinodeploy.pipeline.run_batches import EndOfShard, run_batches, stack
from dinodeploy.pipeline.stages import Stages
from tests.support.fake_engine import embedder


def batch_of(value: int) -> list[Decoded]:
    return [Decoded(str(value), np.full((3, 2, 2), value, np.float32), (2, 2))]


class TwoLanes:
    """An engine that can run two batches in parallel, and remembers how many did."""

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


def test_as_many_batches_run_in_parallel_as_there_are_sessions() -> None:
    """Never one more, in order, and none lost."""
    engine = TwoLanes()
    batches = [batch_of(index) for index in range(7)]
    found = [
        (batch[0].id, float(outputs["cls"][0, 0]))
        for batch, outputs in run_batches(embedder(engine.run, parallel_runs=2), batches)
    ]
    assert found == [(str(i), float(i)) for i in range(7)]
    assert engine.most == 2


def test_an_end_of_shard_keeps_its_place_and_runs_nothing() -> None:
    seen: list[int] = []

    def run(pixels: Any) -> dict[str, Any]:
        seen.append(len(pixels))
        return {}

    work = [batch_of(0), EndOfShard(0), batch_of(1), EndOfShard(1), EndOfShard(2)]
    assert [item for item, _ in run_batches(embedder(run), work)] == work
    assert seen == [1, 1]


def test_one_batch_is_ready_and_no_more() -> None:
    """Pixels are stacked while the engine runs; memory holds two batches per session."""
    taken = 0

    def batches() -> Any:
        nonlocal taken
        for index in range(10):
            taken += 1
            yield batch_of(index)

    for done, _ in enumerate(run_batches(embedder(lambda pixels: {}), batches())):
        assert taken <= done + 2


def test_an_error_in_a_session_ends_the_run() -> None:
    def run(pixels: Any) -> dict[str, Any]:
        if pixels[0, 0, 0, 0] == 1:
            raise MisuseError("33x32; wanted multiples")
        return {}

    with pytest.raises(MisuseError, match="33x32; wanted multiples"):
        list(run_batches(embedder(run), [batch_of(index) for index in range(3)]))


def test_time_is_counted_per_stage() -> None:
    stages = Stages()

    def run(pixels: Any) -> dict[str, Any]:
        threading.Event().wait(0.05)
        return {}

    list(run_batches(embedder(run), [batch_of(0), batch_of(1)], stages))
    assert stages.worked["engine"] >= 0.1
    assert stages.waited["engine"] > 0.05
    assert stages.bottleneck == "engine"


def test_a_batch_is_stacked_in_order() -> None:
    pixels = stack([batch_of(value)[0] for value in range(4)])
    assert pixels.shape == (4, 3, 2, 2)
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
