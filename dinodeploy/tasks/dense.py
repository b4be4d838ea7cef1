"""Maps of classes and depths: between an image's pixels and the model input's, and as image files.

Shapes: h w pixels of the original image (or a patch grid where stated), H W pixels of the input, K classes.
"""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray, FloatArray, IndexArray
from dinodeploy.images.preprocess import Preprocess

IGNORE = 255  # class id of pixels without a class, and of pixels that the input did not show
GOLDEN_RATIO = 0.61803398875  # hue step in turns: neighbouring ids get clearly different colours
OPACITY = 0.5
MILLIMETRES = 1000.0  # grey levels per metre, as in NYU and the official evaluation (docs/spec.md 5.6)
DEEPEST = 65535


def place_mask(mask: IndexArray, preprocess: Preprocess) -> IndexArray:
    """Class ids [h,w] of an image -> [H,W] of the input made from it, by nearest neighbour.

    IGNORE where the input is padded.
    """
    height, width = mask.shape
    image = Image.fromarray(mask.astype(np.int32))
    shown = preprocess.shown(width, height)
    resized = image.resize(shown[::-1], Image.Resampling.NEAREST, box=preprocess.view(width, height))
    placed = np.full(preprocess.target_size(width, height), IGNORE, np.int64)
    placed[: shown[0], : shown[1]] = np.asarray(resized)
    return placed


def enlarge_argmax(logits: AnyArray, size: tuple[int, int]) -> IndexArray:
    """Patch grid [h,w,K] -> best class at every pixel of `size` (H, W).

    Logits are resized bilinearly, one class at a time to save memory.
    """
    best = np.full(size, -np.inf, np.float32)
    chosen = np.zeros(size, np.int64)
    for index in range(logits.shape[-1]):
        plane = Image.fromarray(np.ascontiguousarray(logits[..., index], np.float32))
        resized = np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR))
        better = resized > best
        best[better], chosen[better] = resized[better], index
    return chosen


def visible_box(preprocess: Preprocess, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of an image of `size` (width, height) that the input shows: left, top, right, bottom."""
    left, top, right, bottom = preprocess.view(*size)
    return (
        max(0, round(left)),
        max(0, round(top)),
        min(size[0], max(round(right), round(left) + 1)),
        min(size[1], max(round(bottom), round(top) + 1)),
    )


def palette() -> list[int]:
    """256 colours as R, G, B, R, …; 255 is white."""
    colours: list[int] = []
    for index in range(IGNORE):
        hue, value = (index * GOLDEN_RATIO) % 1.0, (0.95, 0.7, 0.5)[index // 8 % 3]
        colours += [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, value)]
    return [*colours, 255, 255, 255]


def class_image(chosen: AnyArray) -> Image.Image:
    """Class ids [h,w], at most 255 -> a palette image whose pixel values are the ids."""
    image = Image.fromarray(chosen.astype(np.uint8))
    image.putpalette(palette())
    return image


def segment_image(ids: AnyArray) -> Image.Image:
    """Ids of objects [h,w], 0 for none -> RGB, id = R + 256 G + 65536 B, as in COCO panoptic images."""
    parts = [(ids >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)]
    return Image.fromarray(np.stack(parts, axis=-1))


def depth_image(depth: FloatArray) -> Image.Image:
    """Metres [h,w] -> 16-bit grey in millimetres; 0 where unknown, 65,535 beyond the range."""
    levels = np.clip(np.nan_to_num(depth, nan=0.0) * MILLIMETRES + 0.5, 0, DEEPEST)
    return Image.fromarray(levels.astype(np.uint16))
