"""A CPU's lanes: runs at the same time, of one thread each.

Threads that share a run wait for each other after every operator, and for the one that the system took from
its core to decode a picture or to serve somebody else. Threads with a run each wait for nobody: a folder is
done a seventh sooner (benchmarks/LOG.md), and one picture alone takes as many times longer as there are
cores. The numbers are the same.

Shapes: B batch, H W input pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.backends import OpenOptions
from dinodeploy.hardware.cores import cores

PIXELS_A_LANE = 128 * 1024  # in one run: two pictures of 224² or 256²; more outgrow a core's own caches


def lanes_for(options: OpenOptions) -> int:
    """How many runs at once a CPU runtime is opened for; one is what all its threads work on."""
    return options.threads or cores() if options.hint == "throughput" else 1


def in_parts(
    run: Callable[[FloatArray], Sequence[Any]], pixels: FloatArray, pixels_at_once: int | None
) -> Sequence[FloatArray]:
    """The outputs of a batch [B,3,H,W], run in parts of at most so many pixels, as even as can be."""
    batch, _, height, width = pixels.shape
    if pixels_at_once is None:
        return run(pixels)
    at_once = max(1, pixels_at_once // (height * width))
    parts = [run(part) for part in np.array_split(pixels, max(1, -(-batch // at_once)))]
    return parts[0] if len(parts) == 1 else [np.concatenate(made) for made in zip(*parts, strict=True)]
