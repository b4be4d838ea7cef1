"""Turns, medians and ratios, on a clock that tests wind."""

from __future__ import annotations

from dinodeploy.bench.timing import compare, take_turns


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_turns_are_taken_and_the_first_run_warms_up() -> None:
    clock, order = Clock(), []

    def runs(name: str, costs: list[float]) -> None:
        order.append(name)
        clock.now += costs.pop(0)

    a, b = [100.0, 1.0, 2.0, 3.0], [100.0, 4.0, 4.0, 4.0]
    seconds = take_turns({"a": lambda: runs("a", a), "b": lambda: runs("b", b)}, 3, clock)
    assert seconds == {"a": [1.0, 2.0, 3.0], "b": [4.0, 4.0, 4.0]}
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]


def test_ratios_are_within_a_round() -> None:
    """A machine that gets ten times slower half way: medians drift, ratios do not."""
    found = compare({"engine": [1.0, 1.0, 10.0, 10.0], "peer": [2.0, 2.0, 20.0, 20.0]}, "engine")
    assert found["peer"].ratio == 0.5
    assert found["engine"].ratio == 1.0
    assert found["peer"].median_ms == 11_000
    assert found["engine"].p95_ms == 10_000
