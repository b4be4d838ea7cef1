"""The batch size is what measures fastest, found in few runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from dinodeploy import OutsideProfileError
from dinodeploy.embed import probe
from dinodeploy.embed.probe import choose_batch

MANY = 100_000


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
    assert choose_batch(run, MANY, (16, 32), said.append) == wanted
    assert said[0].startswith(f"{wanted}, of 1: ")


def test_it_stops_where_nothing_is_gained(monkeypatch: pytest.MonkeyPatch) -> None:
    run, runs = clocked(monkeypatch, lambda b: 0.010 * b)
    choose_batch(run, MANY, (16, 32), lambda _: None)
    assert set(runs) == {1, 2}


def test_few_pictures_are_not_worth_measuring() -> None:
    def run(pixels: Any) -> None:
        raise AssertionError("not to be run")

    assert choose_batch(run, 1, (16, 32), lambda _: None) == 1
    assert choose_batch(run, 100, (16, 32), lambda _: None) == 8


def test_more_than_the_engine_takes_is_no_error() -> None:
    def run(pixels: Any) -> None:
        if len(pixels) > 4:
            raise OutsideProfileError("at most 4")
        time.sleep(0.002)

    assert choose_batch(run, MANY, (16, 32), lambda _: None) in (2, 4)


def test_an_engine_that_runs_nothing_is() -> None:
    def run(pixels: Any) -> None:
        raise OutsideProfileError("no")

    with pytest.raises(OutsideProfileError):
        choose_batch(run, MANY, (16, 32), lambda _: None)
