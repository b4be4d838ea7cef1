"""An image as callers hand it over: a path, URL, bytes, file object, Pillow image or uint8 array.

Shapes: N images, H, W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Literal, TypeGuard, cast

import numpy as np
from PIL import Image

from dinodeploy.arrays import ByteArray
from dinodeploy.errors import ImageError, reason_of

ImageInput = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | ByteArray
Channels = Literal["rgb", "bgr"]

URL_TIMEOUT = 60.0  # seconds for one download, retries included


def is_one_image(images: ImageInput | Iterable[ImageInput]) -> TypeGuard[ImageInput]:
    """Whether this is one image, and not an iterable of images. An array [N,H,W,C] is several."""
    if isinstance(images, np.ndarray):
        return images.ndim <= 3
    return isinstance(images, (str, os.PathLike, bytes, Image.Image)) or hasattr(images, "read")


def as_source(image: ImageInput, channels: Channels = "rgb") -> str | Path | bytes | Image.Image | ByteArray:
    """`image` as `open_image` takes it: downloaded, read, its channels in RGB order.

    `channels` is the order in arrays; files and Pillow images state their own.
    Raises ImageError for a URL or file object that cannot be read, UnavailableError for a URL that needs a
    package.
    """
    if isinstance(image, np.ndarray):
        has_colour = image.ndim == 3 and image.shape[2] in (3, 4)
        if channels == "rgb" or not has_colour:
            return image
        return np.ascontiguousarray(image[..., [2, 1, 0, 3][: image.shape[2]]])
    if isinstance(image, str) and "://" in image:
        from dinodeploy.sources import remote

        return remote.fetch(image, URL_TIMEOUT) if remote.is_url(image) else image
    if isinstance(image, os.PathLike):
        return Path(image)
    if isinstance(image, (str, bytes, Image.Image)):
        return image
    return _read(image) if hasattr(image, "read") else cast(bytes, image)  # no image: `open_image` refuses it


def _read(file: BinaryIO) -> bytes:
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: a closed file
        raise ImageError(f"file object: cannot be read: {reason_of(error)}") from error
    if not isinstance(content, bytes):
        raise ImageError(
            f"file object: read() gave {type(content).__name__}, wanted bytes; open it in mode 'rb'"
        )
    return content
