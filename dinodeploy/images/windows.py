"""Overlapping square windows of an image: for models that read one square at a time and whole images in sum.

The rule of transformers' `EomtImageProcessor` with `do_split_image`: the short side is resized to the
window's, and as few windows as cover the long side lie evenly along it.

Shapes: S side of a window in pixels, n windows, H W the resized image, one of which is S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.images.preprocess import Preprocess

MAX_WINDOWS = 64  # of an image, for the memory of its scores: a side 64 times the other


@dataclass(frozen=True)
class Windows(Preprocess):
    """Preprocessing to an image [3,H,W] that is cut into windows of `height` x `height`."""

    @classmethod
    def of(cls, preprocess: Preprocess) -> Windows:
        """The same mean, std and window side, bilinear on bytes. Raises MisuseError for a rectangle."""
        side = preprocess.height
        if side != preprocess.width:
            raise MisuseError(
                f"input size {side},{preprocess.width}: this model reads square windows; give one number"
            )
        return cls("official", side, side, preprocess.mean, preprocess.std, preprocess.patch_size)

    def target_size(self, width: int, height: int) -> tuple[int, int]:
        """(H, W) of the resized image. Raises ImageError for an image that takes too many windows."""
        short, long = min(width, height), max(width, height)
        length = int(self.height * long / short)
        if math.ceil(length / self.height) > MAX_WINDOWS:
            raise ImageError(
                f"an image of {width}x{height} px takes {math.ceil(length / self.height)} windows; wanted at "
                f"most {MAX_WINDOWS}: crop it"
            )
        return (length, self.height) if width < height else (self.height, length)

    def starts(self, width: int, height: int) -> tuple[int, ...]:
        """Where each window begins along the longer side of the resized image."""
        side, length = self.height, max(self.target_size(width, height))
        count = math.ceil(length / side)
        overlap = (count * side - length) / (count - 1) if count > 1 else 0
        return tuple(int(index * (side - overlap)) for index in range(count))

    def cut(self, pixels: FloatArray) -> FloatArray:
        """The resized image [3,H,W] -> its windows [n,3,S,S]."""
        side, (height, width) = self.height, pixels.shape[1:]
        starts = self.starts(width, height)
        if width < height:
            return np.stack([pixels[:, start : start + side] for start in starts])
        return np.stack([pixels[:, :, start : start + side] for start in starts])
