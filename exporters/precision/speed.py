"""Compare the speed of a low-precision graph with fp32 on this CPU, alternating between the two."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinodeploy.backends import open_backend
from dinodeploy.images.preprocess import Preprocess

BATCHES = (1, 8)
ROUNDS = 5
WORTH = 1.2  # speed-up over fp32 that justifies the loss of precision; a choice of ours


@dataclass(frozen=True)
class Speed:
    """Median seconds per run of both graphs at a batch size."""

    batch: int
    fp32: float
    low_precision: float

    @property
    def ratio(self) -> float:
        """How many times as fast as fp32."""
        return self.fp32 / self.low_precision


def compare_speed(
    low_precision: Path, fp32: Path, steps: Preprocess, batches: Sequence[int] = BATCHES
) -> tuple[Speed, ...]:
    """Time two ONNX files in ONNX Runtime on this CPU, interleaved; medians of `ROUNDS`."""
    found = []
    engines = [open_backend("onnxruntime", path) for path in (low_precision, fp32)]
    try:
        for batch in batches:
            pixels = steps.blank(batch)
            random = np.random.default_rng(0)
            if steps.dtype == "uint8":
                pixels = random.integers(0, 256, pixels.shape, np.uint8)
            else:
                random.standard_normal(out=pixels, dtype=np.float32)
            seconds: list[list[float]] = [[], []]
            for _ in range(ROUNDS + 1):
                for engine, times in zip(engines, seconds, strict=True):
                    start = time.perf_counter()
                    engine.run(pixels)
                    times.append(time.perf_counter() - start)
            medians = [statistics.median(times[1:]) for times in seconds]  # the first round warms up
            found.append(Speed(batch, fp32=medians[1], low_precision=medians[0]))
    finally:
        for engine in engines:
            engine.close()
    return tuple(found)


def verdict(recipe: str, speeds: Sequence[Speed]) -> str:
    """One line for the user: the speed-ups, and whether the recipe is worth it here."""
    parts = [
        f"{s.ratio:.2f}x fp32 at batch {s.batch} ({1e3 * s.low_precision:.0f} ms against {1e3 * s.fp32:.0f})"
        for s in speeds
    ]
    best = max(s.ratio for s in speeds)
    word = "worth it" if best >= WORTH else "not worth it on this machine: use --precision fp32"
    return f"{recipe} on this CPU: {', '.join(parts)}: {word}"
