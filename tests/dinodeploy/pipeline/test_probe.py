"""Parallel sessions for many images, and the batch size that measures fastest, found in few runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dinodeploy import OutsideProfileError
from dinodeploy.bundle.manifest import OutputFacts
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline import probe
from dinodeploy.pipeline.probe import (
    BATCHES_PER_SESSION,
    IMAGES_PER_SESSION,
    MAX_BYTES,
    choose_batch,
    choose_hint,
    default_shard_size,
    limit_batch,
)
from tests.support.fake_engine import HALF, embedder

MANY = 100_000
STEPS = Preprocess("official", 16, 32, HALF, HALF)


def clocked(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> tuple[Any, list[int]]:
    """An engine on a clock of its own, which takes `seconds(batch)`."""
    now = 0.0
    runs: list[int] = []

    def run(pixels: Any) -> None:
        nonlocal now
        runs.append(len(pixels))
        now += seconds(len(pixels))

    monkeypatch.setattr(probe.time, "perf_counter", lambda: now)
    return run, runs


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (lambda b: 0.010 * b, 1),  # nothing is gained by more
        (lambda b: 0.010 + 0.001 * b, 32),  # a GPU
        (lambda b: 0.010 * b * (0.8 if b >= 4 else 0.9 if b >= 2 else 1.0), 4),
        (lambda b: 0.010 * b * (0.8 if b == 4 else 1.2 if b > 4 else 0.9 if b == 2 else 1.0), 4),
        (lambda b: 2.0 * b, 1),  # slow: no time for more
    ],
)
def test_the_smallest_of_the_fastest(
    monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float], wanted: int
) -> None:
    run, _ = clocked(monkeypatch, seconds)
    said: list[str] = []
    assert choose_batch(embedder(run), MANY, STEPS, said.append) == wanted
    assert said[0].startswith(f"{wanted}, of 1: ")


def test_it_stops_where_nothing_is_gained(monkeypatch: pytest.MonkeyPatch) -> None:
    run, runs = clocked(monkeypatch, lambda b: 0.010 * b)
    choose_batch(embedder(run), MANY, STEPS, lambda _: None)
    assert set(runs) == {1, 2}


def test_few_images_are_not_worth_measuring() -> None:
    def run(pixels: Any) -> None:
        raise AssertionError("not to be run")

    assert choose_batch(embedder(run), 1, STEPS, lambda _: None) == 1
    assert choose_batch(embedder(run), 100, STEPS, lambda _: None) == 8
    assert choose_batch(embedder(run, parallel_runs=2), 100, STEPS, lambda _: None) == 6


def test_lanes_are_measured_together() -> None:
    """Two at once, or the barrier breaks; the rate is of both."""
    together = threading.Barrier(2, timeout=20)

    def run(pixels: Any) -> None:
        together.wait()
        time.sleep(0.02 * len(pixels))

    said: list[str] = []
    assert choose_batch(embedder(run, parallel_runs=2), MANY, STEPS, said.append) == 1
    rate = float(said[0].split("1: ")[1].split("/s")[0])
    assert 50 < rate <= 100


@pytest.mark.parametrize(
    ("most", "images", "parallel_runs", "wanted"),
    [(8, 3, 1, 3), (8, 0, 1, 1), (8, 100, 1, 8), (8, 10, 2, 1), (8, 64, 2, 4), (8, 10**6, 64, 8)],
)
def test_every_session_gets_its_share(most: int, images: int, parallel_runs: int, wanted: int) -> None:
    assert limit_batch(most, images, parallel_runs) == wanted
    if parallel_runs > 1 and images >= BATCHES_PER_SESSION * parallel_runs:
        assert -(-images // wanted) >= BATCHES_PER_SESSION * parallel_runs


def test_many_images_are_worth_parallel_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "cores", lambda: 16)
    enough = 16 * IMAGES_PER_SESSION
    assert [choose_hint(1), choose_hint(enough - 1), choose_hint(enough)] == ["latency"] * 2 + ["throughput"]
    assert choose_hint(enough - 1, threads=2) == "throughput"


def test_more_than_the_engine_takes_is_no_error() -> None:
    def run(pixels: Any) -> None:
        if len(pixels) > 4:
            raise OutsideProfileError("at most 4")
        time.sleep(0.002)

    assert choose_batch(embedder(run), MANY, STEPS, lambda _: None) in (2, 4)


def test_an_engine_that_runs_nothing_is() -> None:
    def run(pixels: Any) -> None:
        raise OutsideProfileError("no")

    with pytest.raises(OutsideProfileError):
        choose_batch(embedder(run), MANY, STEPS, lambda _: None)


OUTPUTS = [
    OutputFacts("cls", ("batch", 384)),
    OutputFacts("storage", ("batch", 4, 384)),
    OutputFacts("patch", ("batch", "rows", "columns", 384)),
]
STEPS = Preprocess("official", 256, 256, HALF, HALF)


def test_small_rows_make_full_shards() -> None:
    for names in (["cls"], ["cls", "mean_patch"], ["cls", "storage", "pooled"]):
        assert default_shard_size(OUTPUTS, names, STEPS) == 10_000


def test_patch_maps_make_short_ones() -> None:
    row = 4 * 256 * 384
    assert default_shard_size(OUTPUTS, ["patch"], STEPS) == MAX_BYTES // row == 341
    assert default_shard_size(OUTPUTS, ["patch"], replace(STEPS, height=512)) == 170
    keep = Preprocess("keep-aspect", 256, 256, HALF, HALF)
    assert default_shard_size(OUTPUTS, ["patch"], keep) == 170
    assert default_shard_size(OUTPUTS, ["patch"], replace(keep, max_patches=256)) == 341
    assert default_shard_size(OUTPUTS, ["patch"], replace(STEPS, height=16 * 1024, width=16 * 1024)) == 1
