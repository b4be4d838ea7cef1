"""A map as an image for people: in the size of its photograph, with its scale and the asked patch marked.

Shapes: h w patch grid.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from dinodeploy.arrays import ByteArray
from dinodeploy.visualize.cards import add_scale
from dinodeploy.visualize.maps import FOREGROUND, Layer

DIMMED = 0.25  # brightness that the background keeps
_OUTER, _INNER = (0, 0, 0), (255, 255, 255)
_LINES = 256  # pixels of the long side for each pixel of a line


def enlarge(colours: ByteArray, size: tuple[int, int], *, smooth: bool = True) -> Image.Image:
    """A map at `size` (width, height) pixels. Without `smooth`, patches stay squares."""
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return Image.fromarray(colours).resize(size, resample)


def draw_layer(layer: Layer, size: tuple[int, int]) -> Image.Image:
    """The layer at `size` (width, height) pixels. A foreground is a mask, white inside."""
    made = enlarge(layer.colours, size, smooth=layer.name != FOREGROUND)
    if layer.mark is not None:
        _mark(made, layer.mark, layer.colours.shape[:2])
    if layer.range is not None:
        add_scale(made, *layer.range.ends, layer.range.unit)
    return made


def draw_over(layer: Layer, image: Image.Image) -> Image.Image:
    """The layer at the size of `image`; a foreground is that image with its background dimmed."""
    if layer.name != FOREGROUND:
        return draw_layer(layer, image.size)
    mask = enlarge(layer.colours, image.size, smooth=False).convert("L")
    return Image.composite(image, dim(image), mask)


def dim(image: Image.Image) -> Image.Image:
    """The image with little of its brightness left."""
    return image.point([round(DIMMED * level) for level in range(256)] * 3)


def _mark(image: Image.Image, place: tuple[int, int], grid: tuple[int, ...]) -> None:
    """A white frame with a black edge around one patch."""
    down, across = (np.array(image.size[::-1]) / grid).tolist()
    top, left = place[0] * down, place[1] * across
    line = max(1, round(max(image.size) / _LINES))
    pen = ImageDraw.Draw(image)
    for outside, width, colour in ((line, 3 * line, _OUTER), (0, line, _INNER)):
        corners = (left - outside, top - outside, left + across + outside - 1, top + down + outside - 1)
        pen.rectangle(corners, outline=colour, width=width)
