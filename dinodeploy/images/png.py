"""PNG: the transparent colour of images that are not 8 bits deep, which Pillow compares in other units.

Source: PNG (third edition), 11.3.1.1 tRNS: the colour is a sample value of the image's own depth.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from dinodeploy.errors import ImageError

_STEPS = {"L;2": 85, "L;4": 17}  # Pillow's raw mode -> grey levels per sample value
_KEY = "transparency"


def scale_key(image: Image.Image) -> None:
    """Give the transparent grey of a 2-bit or 4-bit image in 8 bits, before it is decoded."""
    step = _STEPS.get(raw_mode(image))
    if step is not None and isinstance(key := image.info.get(_KEY), int):
        image.info[_KEY] = min(key * step, 255)


def is_deep_key(image: Image.Image) -> bool:
    """Whether the image has a transparent colour of 3 x 16 bits, of which Pillow keeps 3 x 8."""
    return raw_mode(image) == "RGB;16B" and _KEY in image.info


def open_deep_key(file: BinaryIO) -> Image.Image:
    """A 16-bit RGB image with a transparent colour as RGBA: decoded twice, for the high and low bytes.

    Raises whatever Pillow does.
    """
    from PIL.PngImagePlugin import PngImageFile  # a module that other kinds do not need

    halves: list[np.ndarray[Any, Any]] = []
    for layout in ("RGB;16B", "RGB;16L"):  # taken as little-endian, the low byte is the one that is kept
        file.seek(0)
        image = PngImageFile(file, "")
        image.tile = [tile._replace(args=layout) for tile in image.tile]
        image.load()
        halves.append(np.asarray(image))
    key = image.info[_KEY]
    if len(key) != 3:
        raise ImageError("a transparent colour without three samples")
    values = halves[0].astype(np.uint16) << 8 | halves[1]
    opaque = np.where((values == np.array(key, np.uint16)).all(axis=-1), 0, 255).astype(np.uint8)
    made = Image.fromarray(np.dstack([halves[0], opaque]))
    made.info["exif"] = image.info.get("exif", b"")
    return made


def raw_mode(image: Image.Image) -> str:
    """How Pillow takes the samples of an image that is not decoded yet; empty afterwards."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if image.format == "PNG" and tiles else ""
    return args if isinstance(args, str) else ""
