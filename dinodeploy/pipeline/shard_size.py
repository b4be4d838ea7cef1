"""Default shard size, chosen so that one shard fits in memory.

Shapes: h, w patch grid, D dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dinodeploy.bundle.manifest import OutputFacts
from dinodeploy.images.preprocess import Preprocess

MAX_IMAGES = 10_000
MAX_BYTES = 128 * 2**20  # of float32 rows; up to three shards are in memory, one of them packed
_LONG = 2  # assumed aspect ratio of keep-aspect images


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
