"""The batcher alone: when a batch runs, whose pictures are in it, and what happens when things go wrong."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from dinodeploy.serve.batching import Batcher, BatcherClosed, QueueFull
from dinodeploy.serve.rate import RateLimit

LONG = 30.0  # seconds that no test waits for


def picture(value: float, side: int = 2) -> Any:
    return np.full((3, side, side), value, np.float32)


class Engine:
    """Gives every picture its own mean back; remembers batches, and waits where it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, pixels: Any) -> dict[str, Any]:
        self.go.wait(LONG)
        means = pixels.mean(axis=(1, 2, 3))
        self.batches.append(means.tolist())
        return {"cls": means[:, None]}


def values(futures: list[Future[Any]]) -> list[float]:
    return [float(future.result(LONG)["cls"][0]) for future in futures]


def test_a_full_batch_does_not_wait() -> None:
    engine = Engine()
    with Batcher(engine, max_batch=3, max_wait=LONG) as batcher:
        assert values([batcher.submit(picture(n)) for n in range(3)]) == [0, 1, 2]
    assert engine.batches == [[0, 1, 2]]


def test_one_that_is_not_full_waits_for_its_deadline() -> None:
    engine = Engine()
    with Batcher(engine, max_batch=8, max_wait=0.2) as batcher:
        started = time.monotonic()
        assert values([batcher.submit(picture(5))]) == [5]
        assert time.monotonic() - started >= 0.2


def test_sizes_never_meet_and_the_oldest_goes_first() -> None:
    engine = Engine()
    engine.go.clear()
    with Batcher(engine, max_batch=2, max_wait=0.01) as batcher:
        held = batcher.submit(picture(9))  # keeps the engine busy
        while not held.running():
            time.sleep(0.001)
        small = batcher.submit(picture(1, side=4))
        time.sleep(0.05)
        full = batcher.submit_all([picture(2), picture(3)])
        engine.go.set()
        assert values([held, small, *full]) == [9, 1, 2, 3]
    assert engine.batches == [[9], [1], [2, 3]]


def test_more_than_the_queue_holds_is_refused_whole() -> None:
    engine = Engine()
    engine.go.clear()
    with Batcher(engine, max_batch=1, max_wait=0, queue=3) as batcher:
        taken = batcher.submit_all([picture(n) for n in range(2)])
        with pytest.raises(QueueFull):
            batcher.submit_all([picture(7), picture(8)])
        assert batcher.pending == 2
        taken.append(batcher.submit(picture(2)))
        engine.go.set()
        assert values(taken) == [0, 1, 2]


def test_a_cancelled_picture_is_never_run() -> None:
    engine = Engine()
    engine.go.clear()
    with Batcher(engine, max_batch=1, max_wait=0) as batcher:
        first, second, third = (batcher.submit(picture(n)) for n in range(3))
        while not first.running():
            time.sleep(0.001)
        assert second.cancel()
        engine.go.set()
        assert values([first, third]) == [0, 2]
    assert engine.batches == [[0], [2]]
    assert batcher.pending == 0


def test_a_broken_run_fails_its_own_batch_alone() -> None:
    def run(pixels: Any) -> dict[str, Any]:
        if pixels.max() == 1:
            raise MemoryError("no room")
        return {"cls": pixels[:, 0, 0]}

    with Batcher(run, max_batch=1, max_wait=0) as batcher:
        futures = [batcher.submit(picture(n)) for n in range(3)]
        with pytest.raises(MemoryError):
            futures[1].result(LONG)
        assert values([futures[0], futures[2]]) == [0, 2]


def test_closing_runs_what_waits_and_takes_no_more() -> None:
    engine = Engine()
    batcher = Batcher(engine, max_batch=8, max_wait=LONG)
    futures = [batcher.submit(picture(n)) for n in range(3)]
    batcher.close()
    assert values(futures) == [0, 1, 2]
    with pytest.raises(BatcherClosed):
        batcher.submit(picture(4))
    assert not any(thread.name == "batch" for thread in threading.enumerate())


def test_many_threads_get_each_their_own() -> None:
    engine = Engine()
    found: dict[int, float] = {}
    with Batcher(engine, max_batch=4, max_wait=0.002) as batcher:

        def ask(number: int) -> None:
            found[number] = values([batcher.submit(picture(number, side=2 + number % 3))])[0]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    assert found == {number: number for number in range(60)}
    assert max(map(len, engine.batches)) <= 4


def test_rates_are_a_client_s_own_and_refill() -> None:
    now = 0.0
    limit = RateLimit(2.0, clock=lambda: now)
    assert [limit.take("a") for _ in range(3)] == [0, 0, 1]
    assert limit.take("b") == 0
    now = 0.5
    assert [limit.take("a"), limit.take("a")] == [0, 1]
    now = 100.0
    assert [limit.take("a") for _ in range(3)] == [0, 0, 1]
    slow = RateLimit(0.1, clock=lambda: now)
    assert [slow.take("a"), slow.take("a")] == [0, 10]
