"""Pictures of dense predictions: classes in colours, classes over the picture, depth in 16 bits.

Shapes: h w pixels of the original picture.
"""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

IGNORE = 255  # class of a place that the input did not show
GOLDEN = 0.61803398875  # turns of the colour wheel between neighbours: no two ids near each other look alike
OPACITY = 0.5
MILLIMETRES = (
    1000.0  # one grey level of a depth picture, as in NYU and the official evaluation (docs/spec.md 5.6)
)
DEEPEST = 65535


def palette() -> list[int]:
    """256 colours as R, G, B, R, …; 255 is white."""
    colours: list[int] = []
    for index in range(IGNORE):
        hue, value = (index * GOLDEN) % 1.0, (0.95, 0.7, 0.5)[index // 8 % 3]
        colours += [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, value)]
    return [*colours, 255, 255, 255]


def class_picture(chosen: NDArray[Any]) -> Image.Image:
    """Class ids [h,w], at most 255 -> a palette picture whose values are the ids."""
    image = Image.fromarray(chosen.astype(np.uint8))
    image.putpalette(palette())
    return image


def overlay(picture: Image.Image, classes: Image.Image) -> Image.Image:
    """The RGB picture with its classes half transparent over it."""
    return Image.blend(picture, classes.convert("RGB"), OPACITY)


def depth_picture(depth: NDArray[np.float32]) -> Image.Image:
    """Metres [h,w] -> 16-bit grey, millimetres; 0 where nothing is known, 65,535 for all further on."""
    levels = np.clip(np.nan_to_num(depth, nan=0.0) * MILLIMETRES + 0.5, 0, DEEPEST)
    return Image.fromarray(levels.astype(np.uint16))
