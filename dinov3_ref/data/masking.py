"""Block masks with an exact number of masked patches, for iBOT (docs/spec.md 4.13).

Random rectangles are masked while they fit; the missing patches are chosen one by one.
Shapes: (H, W) patch grid, P = H*W.
"""

from __future__ import annotations

import math
import random

import numpy as np
from numpy.typing import NDArray

TRIALS = 10  # attempts to place another rectangle

Mask = NDArray[np.bool_]


class MaskingGenerator:
    """Draws masks [H,W] with an exact number of True cells.

    num_masking_patches: the default number. min_num_patches, max_num_patches: area of a rectangle; at most
    the whole grid if None. min_aspect, max_aspect: height / width, log-uniform; at most 1 / min_aspect if
    None. Raises ValueError for more patches than the grid has.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int],
        num_masking_patches: int | None = None,
        min_num_patches: float = 4,
        max_num_patches: float | None = None,
        min_aspect: float = 0.3,
        max_aspect: float | None = None,
    ) -> None:
        self.height, self.width = (input_size, input_size) if isinstance(input_size, int) else input_size
        self.num_patches = self.height * self.width
        self.num_masking_patches = num_masking_patches
        self.min_num_patches = min_num_patches
        self.max_num_patches = self.num_patches if max_num_patches is None else max_num_patches
        self.log_aspect = (math.log(min_aspect), math.log(max_aspect or 1 / min_aspect))

    def get_shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height, self.width

    def __call__(self, num_masking_patches: int | None = None, rng: random.Random | None = None) -> Mask:
        """A mask [H,W] with that many True cells, drawn from `rng` (Python's global one if None)."""
        wanted = self.num_masking_patches if num_masking_patches is None else num_masking_patches
        if wanted is None or not 0 <= wanted <= self.num_patches:
            raise ValueError(f"cannot mask {wanted} of {self.num_patches} patches; wanted 0 to all of them")
        draw = rng or random.Random(random.getrandbits(64))
        mask: Mask = np.zeros(self.get_shape(), dtype=bool)
        placed = 0
        while placed < wanted:
            added = self._place_rectangle(mask, min(wanted - placed, self.max_num_patches), draw)
            if added == 0:
                break
            placed += added
        free = np.flatnonzero(~mask.ravel()).tolist()
        mask.reshape(-1)[draw.sample(free, wanted - placed)] = True
        return mask

    def _place_rectangle(self, mask: Mask, limit: float, draw: random.Random) -> int:
        """Mask a rectangle that adds 1 to `limit` cells to the mask [H,W]; return how many (0: none fits)."""
        for _ in range(TRIALS):
            area = draw.uniform(self.min_num_patches, limit)
            aspect = math.exp(draw.uniform(*self.log_aspect))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h >= self.height or w >= self.width:
                continue
            top, left = draw.randint(0, self.height - h), draw.randint(0, self.width - w)
            window = mask[top : top + h, left : left + w]
            added = window.size - int(window.sum())
            if 0 < added <= limit:
                window[:] = True
                return added
        return 0


def max_rectangle(global_crops_size: int, patch_size: int = 16) -> int:
    """Largest rectangle area in the official loader: half the grid, with integer divisions.

    98 for 224 px, 128 for 256 px, and 210 (not 220) for 336 px (docs/spec.md 4.13).
    """
    return int(0.5 * global_crops_size // patch_size * global_crops_size // patch_size)
