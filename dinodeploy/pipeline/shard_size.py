"""How many pictures a shard holds where nobody says: what memory bears, since a shard is in memory whole.

Shapes: h, w patch grid, D dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dinodeploy.bundle.manifest import OutputFacts
from dinodeploy.images.preprocess import Preprocess

MOST_PICTURES = 10_000
MOST_BYTES = 128 * 2**20  # of float32 rows; up to three shards are in memory, one of them packed besides
_LONG = 2  # a keep-aspect picture is taken to be twice as long as it is wide


def default_shard_size(outputs: Sequence[OutputFacts], names: Sequence[str], preprocess: Preprocess) -> int:
    """Pictures a shard for the outputs called `names`; the same on every machine."""
    grid = (preprocess.height // preprocess.patch_size) * (preprocess.width // preprocess.patch_size)
    if preprocess.steps.fit == "keep-aspect":
        grid = min(_LONG * grid, preprocess.max_patches)
    floats = {output.name: _floats(output, grid) for output in outputs}
    cls = floats.get("cls", 0)
    floats |= {"mean_patch": cls, "pooled": 2 * cls}
    row = 4 * sum(floats[name] for name in names)
    return max(1, min(MOST_PICTURES, MOST_BYTES // row))


def _floats(output: OutputFacts, grid: int) -> int:
    """Numbers in one row; a free height and width count as `grid` patches."""
    sides = output.shape[1:]
    free = sum(isinstance(side, str) for side in sides)
    return math.prod(side for side in sides if isinstance(side, int)) * (grid if free else 1)
