"""A float GeoTIFF of metres, placed on the map as the image was.

The tags that place an image (pixel scale, tie points, transformation, keys: OGC GeoTIFF 1.1) are copied,
since the map of metres has the image's own pixels. An image that is stored turned (TIFF tag 274) gets no
GeoTIFF: its tags are about the stored pixels.
Source: https://docs.ogc.org/is/19-008r4/19-008r4.html

Shapes: h w pixels of the image.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray

_PIXEL_SCALE, _TIE_POINTS, _TRANSFORMATION, _KEYS, _DOUBLES, _TEXTS = 33550, 33922, 34264, 34735, 34736, 34737
_TYPES = {
    _PIXEL_SCALE: 12,
    _TIE_POINTS: 12,
    _TRANSFORMATION: 12,
    _KEYS: 3,
    _DOUBLES: 12,
    _TEXTS: 2,
}  # of TIFF 6.0
_ORIENTATION, _NO_DATA = 274, 42113  # the second: GDAL_NODATA, text
_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def geo_tags(image: str | Path | bytes | Image.Image) -> dict[int, Any]:
    """The tags that place an upright GeoTIFF on the map; empty for any other image."""
    if isinstance(image, Image.Image):
        return {}
    try:
        if isinstance(image, bytes):
            return _read(io.BytesIO(image)) if image[:4] in _BEGINNINGS else {}
        with Path(image).open("rb") as file:
            return _read(file) if file.read(4) in _BEGINNINGS else {}
    except Exception:  # a decoder of damaged tags may raise anything; the image itself was read
        return {}


def _read(file: Any) -> dict[int, Any]:
    from PIL import TiffImagePlugin

    file.seek(0)
    head = file.read(8)
    if b"+" in head[2:4]:  # BigTIFF
        head += file.read(8)
    directory = TiffImagePlugin.ImageFileDirectory_v2(head)
    file.seek(directory.next)
    directory.load(file)
    if directory.get(_ORIENTATION, 1) != 1 or _KEYS not in directory:
        return {}
    return {tag: directory[tag] for tag in _TYPES if tag in directory}


def write_geotiff(path: Path, metres: AnyArray, tags: Mapping[int, Any]) -> None:
    """Metres [h,w] as float32; NaN where unknown."""
    from PIL import TiffImagePlugin

    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory.tagtype[tag] = _TYPES[tag]
        directory[tag] = value
    directory.tagtype[_NO_DATA] = 2
    directory[_NO_DATA] = str(math.nan)
    Image.fromarray(np.ascontiguousarray(metres, np.float32)).save(path, "TIFF", tiffinfo=directory)
