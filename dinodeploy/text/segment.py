"""Open-vocabulary segmentation: patch embeddings of sliding windows against label embeddings -> class ids.

Of a text feature, the second half aligns with patches (docs/spec.md 5.8). The image is resized to a short
side of 512 px and read in windows of 384 px, 192 px apart (docs/spec.md 5.9):

    cosines of a window's patches with every label, resized to the window's pixels (bilinear)
    softmax over the labels; the mean over the windows that show a pixel
    resized to the original image (bilinear); the best label at every pixel

Probabilities of all labels at all pixels would take gigabytes, so labels are done one at a time: a first pass
sums the denominators of the softmax, a second makes the map of one label after the other.

Shapes: K labels, E size of a patch embedding, H W pixels of the resized image, h w patch grid of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray, ByteArray, FloatArray
from dinodeploy.errors import MisuseError
from dinodeploy.tasks.dense import IGNORE
from dinodeploy.text.classify import unit_rows

SHORT_SIDE = 512
SIDE = 384  # of a window
STRIDE = 192
MOST_LABELS = IGNORE  # ids that fit a palette image beside IGNORE


@dataclass(frozen=True)
class Window:
    """A part of the resized image in pixels, and the cosines [h,w,K] of its patches with the labels."""

    top: int
    left: int
    height: int
    width: int
    cosines: FloatArray

    def plane(self, label: int) -> FloatArray:
        """Cosines with one label at the window's pixels, [height,width], bilinear."""
        grid = Image.fromarray(np.ascontiguousarray(self.cosines[..., label], np.float32))
        return np.asarray(grid.resize((self.width, self.height), Image.Resampling.BILINEAR))

    @property
    def part(self) -> tuple[slice, slice]:
        """Its place in an array [H,W]."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def window_places(size: tuple[int, int], side: int, stride: int) -> Iterator[tuple[int, int, int, int]]:
    """(top, left, height, width) of windows that cover an image of `size` (H, W); the last touch its edge.

    An image smaller than a window is one window in that direction.
    """
    for top in _starts(size[0], side, stride):
        for left in _starts(size[1], side, stride):
            yield top, left, min(side, size[0]), min(side, size[1])


def _starts(length: int, side: int, stride: int) -> list[int]:
    last = max(0, length - side)
    return [*range(0, last, stride), last]


def check_windows(short_side: int, side: int, stride: int, patch_size: int) -> None:
    """Raise MisuseError for windows that do not lie on the patch grid or leave gaps."""
    for option, value in (("--imgsz", short_side), ("--window", side), ("--stride", stride)):
        if value < patch_size or value % patch_size:
            lower = max(1, value // patch_size) * patch_size
            raise MisuseError(
                f"{option} is {value}; wanted a multiple of the patch size {patch_size}, such as {lower}"
            )
    if stride > side:
        raise MisuseError(f"--stride is {stride}; wanted at most --window, {side}: windows must touch")


def patch_vectors(texts: AnyArray, patch_size: int) -> AnyArray:
    """Text embeddings [T,E'] -> the part that aligns with patch embeddings of that size, [T,E]."""
    if texts.shape[-1] != 2 * patch_size:
        raise MisuseError(
            f"text embeddings have {texts.shape[-1]} numbers, patch embeddings {patch_size}; "
            "wanted twice as many"
        )
    return texts[..., patch_size:]


def patch_cosines(patches: AnyArray, classes: AnyArray) -> FloatArray:
    """Patch embeddings [h,w,E] and class vectors [K,E] -> cosines [h,w,K]."""
    return (unit_rows(patches, "patch embedding") @ unit_rows(classes, "text embedding").T).astype(np.float32)


def class_ids(
    windows: Sequence[Window],
    size: tuple[int, int],
    original: tuple[int, int],
    min_cosine: float | None = None,
) -> ByteArray:
    """Windows of an image of `size` (H, W) -> the best label at every pixel of `original` (H, W), uint8.

    min_cosine: pixels whose best label has a smaller mean cosine get IGNORE, the background.
    """
    labels = windows[0].cosines.shape[-1]
    denominators = [_denominator(window) for window in windows]
    counts = np.zeros(size, np.float32)
    for window in windows:
        counts[window.part] += 1
    best, chosen = np.full(original, -np.inf, np.float32), np.zeros(original, np.uint8)
    similarity = np.zeros(original, np.float32) if min_cosine is not None else None
    for label in range(labels):
        shares, cosines = np.zeros(size, np.float32), np.zeros(size, np.float32)
        for window, denominator in zip(windows, denominators, strict=True):
            plane = window.plane(label)
            shares[window.part] += np.exp(plane) / denominator
            cosines[window.part] += plane
        enlarged = _resize(shares / counts, original)
        better = enlarged > best
        best[better], chosen[better] = enlarged[better], label
        if similarity is not None:
            similarity[better] = _resize(cosines / counts, original)[better]
    if similarity is not None and min_cosine is not None:
        chosen[similarity < min_cosine] = IGNORE
    return chosen


def _denominator(window: Window) -> FloatArray:
    """Sum over the labels of exp(cosine) at the window's pixels; cosines need no shift against overflow."""
    total = np.zeros((window.height, window.width), np.float32)
    for label in range(window.cosines.shape[-1]):
        total += np.exp(window.plane(label))
    return total


def _resize(plane: FloatArray, size: tuple[int, int]) -> FloatArray:
    return np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR))
