"""`Batcher`: who meets in a batch, how long they wait, and what close, cancel and failure leave behind."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dinodeploy import ImageError, MisuseError
from dinodeploy.batcher import Batcher
from dinodeploy.errors import BusyError
from tests.support.fake_engine import SMALL, engine

LONG = 30.0  # seconds; nobody waits for them


class Held:
    """An embedder whose runs wait until they are let go; `batches` is what was run, by shape and by value."""

    def __init__(self, parallel_runs: int = 1, let_go: bool = True) -> None:
        self.backend = SimpleNamespace(parallel_runs=parallel_runs)
        self.batches: list[tuple[int, ...]] = []
        self.values: list[list[float]] = []
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        if let_go:
            self.gate.set()

    def preprocess_for(self, imgsz: Any) -> Any:
        return SMALL if imgsz is None else SMALL.with_size(*imgsz)

    def run(self, pixels: Any) -> dict[str, Any]:
        self.batches.append(pixels.shape)
        self.values.append(pixels[:, 0, 0, 0].tolist())
        self.begun.release()
        assert self.gate.wait(LONG)
        return engine(pixels)


def colour(value: int) -> np.ndarray[Any, Any]:
    return np.full((16, 32, 3), value, np.uint8)


def pixels(value: float, side: int = 16) -> np.ndarray[Any, Any]:
    """An image as the engine takes it."""
    return np.full((3, side, side), value, np.float32)


def found(futures: list[Future[Any]]) -> list[float]:
    return [float(future.result(LONG)["cls"][0]) for future in futures]


def batcher(embedder: Any, **options: Any) -> Batcher:
    return Batcher(embedder, **({"max_batch": 4, "max_wait": LONG, "queue_size": 8} | options))


def test_images_meet_in_a_batch_and_each_gets_its_own_row() -> None:
    embedder = Held()
    with batcher(embedder) as batch, ThreadPoolExecutor(4) as pool:
        futures = list(pool.map(batch.submit, [colour(value) for value in (0, 50, 100, 150)]))
        rows = [future.result(LONG) for future in futures]
    assert embedder.batches == [(4, 3, 16, 32)]
    for value, row in zip((0, 50, 100, 150), rows, strict=True):
        np.testing.assert_allclose(row["cls"], (value / 255 - 0.5) / 0.5, atol=1e-6)
        assert row["cls"].base is None, "no row keeps the batch alive"


def test_nobody_waits_longer_than_asked_for() -> None:
    embedder = Held()
    with batcher(embedder, max_wait=0.05) as batch:
        started = time.monotonic()
        batch.submit(colour(1)).result(LONG)
        assert 0.04 < time.monotonic() - started < 5
    assert embedder.batches == [(1, 3, 16, 32)]


def test_sizes_are_not_mixed() -> None:
    embedder = Held()
    with batcher(embedder, max_batch=2) as batch:
        one, other = batch.submit(colour(1)), batch.submit(colour(2), imgsz=(32, 32))
        batch.submit(colour(3)).result(LONG)
        assert one.done()
        assert not other.done()
    assert other.result(0)["patch"].shape == (2, 2, 3), "close runs what waits"
    assert embedder.batches == [(2, 3, 16, 32), (1, 3, 32, 32)]


def test_a_full_batch_of_one_size_does_not_wait_for_another_size() -> None:
    embedder = Held()
    with batcher(embedder, max_batch=2) as batch:
        early = batch.submit_pixels([pixels(1, side=32)])[0]
        assert found(batch.submit_pixels([pixels(2), pixels(3)])) == [2, 3]
        assert not early.done()


def test_of_what_is_due_the_oldest_goes_first() -> None:
    embedder = Held(let_go=False)
    with batcher(embedder, max_batch=2, max_wait=0.01) as batch:
        futures = batch.submit_pixels([pixels(0)])
        assert embedder.begun.acquire(timeout=LONG)
        for value, side in ((1, 16), (2, 16), (3, 32), (4, 16), (5, 16)):
            futures += batch.submit_pixels([pixels(value, side)])
        time.sleep(0.05)
        embedder.gate.set()
        assert found(futures) == [0, 1, 2, 3, 4, 5]
    assert embedder.values == [[0], [1, 2], [3], [4, 5]], "a full batch is no reason to go before older ones"


def test_batches_of_large_inputs_are_smaller() -> None:
    held = Held(let_go=False)
    with Batcher(held, max_batch=8, max_wait=0.05, max_pixels=2 * 32 * 32) as batcher:
        futures = batcher.submit_pixels([pixels(number, 32) for number in range(5)])
        futures += batcher.submit_pixels([pixels(9, 64)] * 2 + [pixels(number) for number in range(8)])
        held.gate.set()
        for one in futures:
            one.result(LONG)
    assert sorted(shape for shape in held.batches if shape[2] != 16) == [
        (1, 3, 32, 32),
        (1, 3, 64, 64),
        (1, 3, 64, 64),
        (2, 3, 32, 32),
        (2, 3, 32, 32),
    ]
    assert (8, 3, 16, 16) in held.batches


def test_many_threads_get_each_their_own() -> None:
    embedder = Held(parallel_runs=2)
    with batcher(embedder, max_wait=0.002, queue_size=60) as batch, ThreadPoolExecutor(20) as pool:
        answers = pool.map(
            lambda n: found(batch.submit_pixels([pixels(n, side=16 * (1 + n % 3))])), range(60)
        )
        assert list(answers) == [[n] for n in range(60)]
    assert max(shape[0] for shape in embedder.batches) <= 4


def test_more_than_there_is_room_for_is_refused_whole() -> None:
    embedder = Held(let_go=False)
    with batcher(embedder, max_batch=1, queue_size=3) as batch:
        taken = batch.submit_pixels([pixels(0)])
        assert embedder.begun.acquire(timeout=LONG)
        taken += batch.submit_pixels([pixels(1), pixels(2)])
        with pytest.raises(BusyError, match="2 of at most 3 images are waiting"):
            batch.submit_pixels([pixels(7), pixels(8)])
        assert batch.pending == 3, "two wait, one is being run"
        taken += batch.submit_pixels([pixels(3)])
        embedder.gate.set()
        assert found(taken) == [0, 1, 2, 3]
    assert batch.pending == 0


def test_whoever_waits_for_a_cancelled_image_is_told() -> None:
    embedder = Held()
    with batcher(embedder) as batch:
        alone = batch.submit_pixels([pixels(0)])[0]
        assert alone.cancel()
        batch.submit_pixels([pixels(n) for n in range(4)])
        assert wait([alone], timeout=LONG).done == {alone}
    assert embedder.values == [[0, 1, 2, 3]]


def test_an_image_is_cancelled_behind_others() -> None:
    embedder = Held()
    with batcher(embedder) as batch:
        first, second = batch.submit_pixels([pixels(0), pixels(1)])
        assert second.cancel()
        rest = batch.submit_pixels([pixels(n) for n in (2, 3, 4)])
        assert found([first, *rest]) == [0, 2, 3, 4]
    assert embedder.values == [[0, 2, 3, 4]]


def test_every_run_is_observed() -> None:
    seen: list[tuple[int, float]] = []
    with batcher(Held(), observe=lambda *run: seen.append(run)) as batch:
        found(batch.submit_pixels([pixels(n) for n in range(4)]))
    assert [pictures for pictures, _ in seen] == [4]
    assert 0 < seen[0][1] < LONG


def test_a_full_queue_says_so_and_a_cancelled_image_makes_room() -> None:
    embedder = Held(let_go=False)
    with batcher(embedder, max_batch=1, queue_size=2) as batch:
        running = batch.submit(colour(0))
        assert embedder.begun.acquire(timeout=LONG)
        waiting = [batch.submit(colour(1)), batch.submit(colour(2))]
        with pytest.raises(BusyError, match="2 of at most 2 images are waiting"):
            batch.submit(colour(3))
        assert waiting[0].cancel()
        assert not running.cancel(), "it is being run"
        last = batch.submit(colour(4))
        embedder.gate.set()
        last.result(LONG)
    assert len(embedder.batches) == 3, "the cancelled one cost nothing"
    with pytest.raises(CancelledError):
        waiting[0].result(0)


def test_close_without_draining_cancels() -> None:
    embedder = Held(let_go=False)
    batch = batcher(embedder, max_batch=1)
    running = batch.submit(colour(0))
    assert embedder.begun.acquire(timeout=LONG)
    waiting = batch.submit(colour(1))
    threading.Timer(0.05, embedder.gate.set).start()
    batch.close(drain=False)
    assert running.result(0)
    assert waiting.cancelled()
    batch.close()
    with pytest.raises(MisuseError, match="the batcher is closed"):
        batch.submit(colour(2))


def test_a_failing_run_fails_its_images_alone() -> None:
    embedder = Held()
    run, failures = embedder.run, [MemoryError("no room")]

    def failing(pixels: Any) -> dict[str, Any]:
        if failures:
            raise failures.pop()
        return run(pixels)

    embedder.run = failing  # type: ignore[method-assign]
    with batcher(embedder, max_batch=1) as batch:
        with pytest.raises(MemoryError, match="no room"):
            batch.submit(colour(0)).result(LONG)
        assert batch.submit(colour(0)).result(LONG)


def test_an_image_that_cannot_be_read_is_refused_where_it_is_given() -> None:
    with batcher(Held()) as batch, pytest.raises(ImageError):
        batch.submit(b"no picture")


def test_two_lanes_run_two_batches_at_once() -> None:
    embedder = Held(parallel_runs=2, let_go=False)
    with batcher(embedder, max_batch=1) as batch:
        batch.submit(colour(0))
        batch.submit(colour(1))
        assert embedder.begun.acquire(timeout=LONG)
        assert embedder.begun.acquire(timeout=LONG)
        embedder.gate.set()


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"max_wait": -1}, {"queue_size": 3}])
def test_numbers_that_mean_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(MisuseError, match="wanted at least 1, 0 seconds"):
        batcher(Held(), **options)


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    with batcher(Held(parallel_runs=3)) as batch:
        assert threading.active_count() == before + 3
        batch.submit(colour(0))
    assert threading.active_count() == before
