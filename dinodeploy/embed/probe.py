"""How many pictures the engine should run together on this machine: measured, in a moment.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dinodeploy.embedder import BATCH_SIZE
from dinodeploy.errors import DinodeployError

SIZES = (1, 2, 4, 8, 16, 32)
GAIN = 1.03  # of images/s that a larger batch must bring
RUNS, SECONDS = 2, 0.1  # timed after one to warm up, at least; the fastest counts
BUDGET = 8.0  # seconds after which no larger batch is tried
WORTH_IT = 512  # pictures; for fewer, measuring costs more than it gains


def choose_batch(
    run: Callable[[Any], Any], pictures: int, size: tuple[int, int], say: Callable[[str], None]
) -> int:
    """Pictures a run for a listing of `pictures`, each of `size` (H, W)."""
    if pictures < WORTH_IT:
        return max(1, min(BATCH_SIZE, pictures))
    began = time.perf_counter()
    rates: dict[int, float] = {}
    for batch in SIZES:
        try:
            rate = batch / _seconds(run, np.full((batch, 3, *size), 0.5, np.float32))
        except (DinodeployError, MemoryError, RuntimeError):  # more than the engine or its memory takes
            if not rates:
                raise
            break
        best = max(rates.values(), default=0.0)
        rates[batch] = rate
        if rate < GAIN * best or time.perf_counter() - began > BUDGET:
            break
    best = max(rates.values())
    chosen = next(batch for batch, rate in rates.items() if rate * GAIN >= best)
    say(f"{chosen}, of " + ", ".join(f"{batch}: {rate:.1f}/s" for batch, rate in rates.items()))
    return chosen


def _seconds(run: Callable[[Any], Any], pixels: Any) -> float:
    run(pixels)
    times: list[float] = []
    while len(times) < RUNS or sum(times) < SECONDS:
        started = time.perf_counter()
        run(pixels)
        times.append(time.perf_counter() - started)
    return min(times)
