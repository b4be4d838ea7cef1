"""CPU throughput mode: parallel runs of one thread each.

Threads that share a run wait for each other after every operator, and for a thread that the system has taken
off its core. Threads with a run each wait for nobody: a folder takes a seventh less time (benchmarks/LOG.md),
and one image alone takes as many times longer as there are cores. The numbers are the same.

Shapes: B batch, H W input pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray, sides_of
from dinodeploy.backends import OpenOptions
from dinodeploy.hardware.cores import cores

PIXELS_PER_RUN = 128 * 1024  # two images of 224² or 256²; more do not fit the caches of one core


def parallel_runs_for(options: OpenOptions) -> int:
    """How many runs a CPU runtime executes in parallel; a single run uses all threads."""
    return options.threads or cores() if options.hint == "throughput" else 1


def in_parts(
    run: Callable[[AnyArray], Sequence[Any]], pixels: AnyArray, pixels_at_once: int | None
) -> Sequence[FloatArray]:
    """The outputs of a batch, run in even parts of at most `pixels_at_once` pixels.

    The batch is [B,3,H,W], or bytes [B,H,W,3]. Token ids [T,N] are run as they are.
    """
    if pixels_at_once is None or pixels.ndim == 2:
        return run(pixels)
    height, width = sides_of(pixels)
    at_once = max(1, pixels_at_once // (height * width))
    parts = [run(part) for part in np.array_split(pixels, max(1, -(-len(pixels) // at_once)))]
    return parts[0] if len(parts) == 1 else [np.concatenate(made) for made in zip(*parts, strict=True)]
