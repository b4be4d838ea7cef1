"""Runs in turns: on a machine that drifts, only what ran side by side can be compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """One runner at one shape. `ratio`: how many times its time the engine's is, median over rounds."""

    median_ms: float
    p95_ms: float
    ratio: float


def take_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each run, one of each a round, after one round to warm up.

    The order turns from round to round, so that nobody always runs behind the same neighbour.
    """
    names = list(runs)
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            started = clock()
            runs[name]()
            seconds[name].append(clock() - started)
    return seconds


def compare(seconds: Mapping[str, list[float]], engine: str) -> dict[str, Timing]:
    """Medians, 95th percentiles, and each one's speed as a multiple of `engine`'s, round by round."""
    ours = np.array(seconds[engine])
    return {
        name: Timing(
            median_ms=1e3 * float(np.median(times)),
            p95_ms=1e3 * float(np.percentile(times, 95)),
            ratio=float(np.median(ours / np.array(times))),
        )
        for name, times in seconds.items()
    }
