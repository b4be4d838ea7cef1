"""How an engine is opened for a listing, and how many pictures it should run together: measured, in a moment.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from dinodeploy.backends import Hint
from dinodeploy.embedder import BATCH_SIZE, Embedder
from dinodeploy.errors import DinodeployError
from dinodeploy.hardware.cores import cores

SIZES = (1, 2, 4, 8, 16, 32)
GAIN = 1.03  # of images/s that a larger batch must bring
RUNS, SECONDS = 2, 0.1  # timed after one to warm up, at least; the fastest counts
BUDGET = 8.0  # seconds after which no larger batch is tried
WORTH_IT = 512  # pictures; for fewer, measuring costs more than it gains
PICTURES_A_LANE = 4  # with fewer, all threads on one picture after the other are done sooner
BATCHES_A_LANE = 8  # at least: lanes end together to within a batch


def choose_hint(pictures: int, threads: int | None = None) -> Hint:
    """For `Embedder.open`, by how many pictures there are; `threads` of the engine, one a core by default."""
    return "throughput" if pictures >= PICTURES_A_LANE * (threads or cores()) else "latency"


def choose_batch(embedder: Embedder, pictures: int, size: tuple[int, int], say: Callable[[str], None]) -> int:
    """Pictures a run for a listing of `pictures`, each of `size` (H, W), with all lanes at work."""
    lanes = embedder.backend.lanes
    if pictures < WORTH_IT:
        return limit_batch(BATCH_SIZE, pictures, lanes)
    with ThreadPoolExecutor(lanes) as pool:
        return _measured(lambda pixels: list(pool.map(embedder.run, [pixels] * lanes)), lanes, size, say)


def limit_batch(most: int, pictures: int, lanes: int) -> int:
    """At most `most` pictures a run, and so few that every lane gets its share of them."""
    share = pictures if lanes == 1 else pictures // (BATCHES_A_LANE * lanes)
    return max(1, min(most, share))


def _measured(
    run: Callable[[Any], Any], lanes: int, size: tuple[int, int], say: Callable[[str], None]
) -> int:
    began = time.perf_counter()
    rates: dict[int, float] = {}
    for batch in SIZES:
        try:
            rate = lanes * batch / _seconds(run, np.full((batch, 3, *size), 0.5, np.float32))
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
