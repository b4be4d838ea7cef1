"""Choose how to open an engine for a number of images, the shard size, and the batch size, by measuring.

Shapes: H, W input pixels, h, w patch grid, D dimension.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dinodeploy.backends import Hint
from dinodeploy.bundle.manifest import OutputFacts
from dinodeploy.errors import DinodeployError
from dinodeploy.hardware.cores import cores
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.runner import BATCH_SIZE, Runner

SIZES = (1, 2, 4, 8, 16, 32)
GAIN = 1.03  # in images/s that a larger batch must bring
RUNS, SECONDS = 2, 0.1  # timed at least, after one warm-up run; the fastest counts
BUDGET = 8.0  # seconds after which no larger batch is tried
WORTH_IT = 512  # images; for fewer, measuring costs more than it gains
IMAGES_PER_SESSION = 4  # with fewer, all threads on one image after the other are faster
BATCHES_PER_SESSION = 8  # at least, so that all parallel sessions finish within one batch
MAX_IMAGES = 10_000  # per shard
MAX_BYTES = 128 * 2**20  # per shard, of float32 rows; up to three are in memory, one of them packed
_LONG = 2  # assumed aspect ratio of keep-aspect images


def choose_hint(images: int, threads: int | None = None) -> Hint:
    """The hint for `Embedder.open` for so many images. threads: of the engine; default: one per core."""
    return "throughput" if images >= IMAGES_PER_SESSION * (threads or cores()) else "latency"


def choose_batch(embedder: Runner, images: int, steps: Preprocess, log: Callable[[str], None]) -> int:
    """Batch size for `images` images of the input size of `steps`, with all parallel sessions busy."""
    parallel_runs = embedder.backend.parallel_runs
    if images < WORTH_IT:
        return limit_batch(BATCH_SIZE, images, parallel_runs)
    with ThreadPoolExecutor(parallel_runs) as pool:
        return _measured(
            lambda pixels: list(pool.map(embedder.run, [pixels] * parallel_runs)), parallel_runs, steps, log
        )


def limit_batch(most: int, images: int, parallel_runs: int) -> int:
    """At most `most` images per batch, and few enough that every parallel session gets its share."""
    share = images if parallel_runs == 1 else images // (BATCHES_PER_SESSION * parallel_runs)
    return max(1, min(most, share))


def _measured(
    run: Callable[[Any], Any], parallel_runs: int, steps: Preprocess, log: Callable[[str], None]
) -> int:
    began = time.perf_counter()
    rates: dict[int, float] = {}
    for batch in SIZES:
        try:
            rate = parallel_runs * batch / _seconds(run, steps.blank(batch))
        except (DinodeployError, MemoryError, RuntimeError):  # too large for the engine or for memory
            if not rates:
                raise
            break
        best = max(rates.values(), default=0.0)
        rates[batch] = rate
        if rate < GAIN * best or time.perf_counter() - began > BUDGET:
            break
    best = max(rates.values())
    chosen = next(batch for batch, rate in rates.items() if rate * GAIN >= best)
    log(f"{chosen}, of " + ", ".join(f"{batch}: {rate:.1f}/s" for batch, rate in rates.items()))
    return chosen


def _seconds(run: Callable[[Any], Any], pixels: Any) -> float:
    run(pixels)
    times: list[float] = []
    while len(times) < RUNS or sum(times) < SECONDS:
        started = time.perf_counter()
        run(pixels)
        times.append(time.perf_counter() - started)
    return min(times)


def default_shard_size(outputs: Sequence[OutputFacts], names: Sequence[str], preprocess: Preprocess) -> int:
    """Images per shard for the outputs called `names`; the same on every machine."""
    grid = (preprocess.height // preprocess.patch_size) * (preprocess.width // preprocess.patch_size)
    if preprocess.steps.fit == "keep-aspect":
        grid = min(_LONG * grid, preprocess.max_patches)
    floats = {output.name: _floats(output, grid) for output in outputs}
    cls = floats.get("cls", 0)
    floats |= {"mean_patch": cls, "pooled": 2 * cls}
    row = 4 * sum(floats[name] for name in names)
    return max(1, min(MAX_IMAGES, MAX_BYTES // row))


def _floats(output: OutputFacts, grid: int) -> int:
    """Numbers in one row; free sides together count as `grid` patches."""
    sides = output.shape[1:]
    free = sum(isinstance(side, str) for side in sides)
    return math.prod(side for side in sides if isinstance(side, int)) * (grid if free else 1)
