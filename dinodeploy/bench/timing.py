"""Time runs in turns: where a machine's speed drifts, only runs next to each other are comparable."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """One runner at one shape. `ratio`: the engine's time over its time, median over rounds."""

    median_ms: float
    p95_ms: float
    ratio: float


def take_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each run, one per round, after one warm-up round.

    The order rotates from round to round, so that no run always follows the same one.
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
    """Median, 95th percentile, and speed relative to `engine` in the same round."""
    ours = np.array(seconds[engine])
    return {
        name: Timing(
            median_ms=1e3 * float(np.median(times)),
            p95_ms=1e3 * float(np.percentile(times, 95)),
            ratio=float(np.median(ours / np.array(times))),
        )
        for name, times in seconds.items()
    }
