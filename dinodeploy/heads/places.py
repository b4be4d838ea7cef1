"""From a picture's pixels to the input's, and back.

Shapes: h w pixels of a picture (or a patch grid where said), H W pixels of the input, K classes.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray, IndexArray
from dinodeploy.images.preprocess import Preprocess


def place_mask(mask: IndexArray, preprocess: Preprocess) -> IndexArray:
    """Class ids [h,w] of a picture -> [H,W] of the input made of it, by the nearest pixel."""
    height, width = mask.shape
    image = Image.fromarray(mask.astype(np.int32))
    size = preprocess.target_size(width, height)
    placed = image.resize(size[::-1], Image.Resampling.NEAREST, box=preprocess.view(width, height))
    return np.asarray(placed).astype(np.int64)


def enlarge_argmax(logits: AnyArray, size: tuple[int, int]) -> IndexArray:
    """[h,w,K] -> the best class at every place of `size` (H, W), logits resized bilinearly one by one."""
    best = np.full(size, -np.inf, np.float32)
    chosen = np.zeros(size, np.int64)
    for index in range(logits.shape[-1]):
        plane = Image.fromarray(np.ascontiguousarray(logits[..., index], np.float32))
        resized = np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR))
        better = resized > best
        best[better], chosen[better] = resized[better], index
    return chosen
