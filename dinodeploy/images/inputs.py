"""Images as callers hand them over, and engine inputs as arrays of other libraries, which are not imported.

Shapes: N images, B batch, H, W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeGuard, cast

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray, ByteArray, FloatArray, sides_of
from dinodeploy.errors import ImageError, MisuseError, reason_of
from dinodeploy.images.preprocess import Preprocess

ImageInput = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | ByteArray
Channels = Literal["rgb", "bgr"]

URL_TIMEOUT = 60.0  # seconds for one download, retries included
_HOST = (1, 3)  # DLPack device types in CPU memory: CPU, and pinned for CUDA


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


def as_pixels(pixels: Any, steps: Preprocess, least_side: int = 1) -> AnyArray:
    """A numpy array, or any array with DLPack, as engine input: float32 [B,3,H,W], contiguous.

    Where `steps` make bytes: uint8 [B,H,W,3], of that or of normalised float32 [B,3,H,W]. Shares the caller's
    memory unless that is not contiguous, or converted. Raises MisuseError for a GPU's memory, and as
    `check_pixels`.
    """
    array = _as_array(pixels)
    check_pixels(array, steps, least_side)
    return np.ascontiguousarray(array if array.dtype == np.uint8 else steps.for_engine(array))


def check_pixels(array: Any, steps: Preprocess, least_side: int = 1, *, on_gpu: bool = False) -> None:
    """Raise MisuseError unless an array, of whatever library, can be an engine's input.

    Its size must be a multiple of the patch size, and `least_side` or more. on_gpu: it is not converted.
    """
    patch_size, takes_bytes = steps.patch_size, steps.dtype == "uint8"
    is_bytes = array.dtype == np.uint8 and takes_bytes
    if not is_bytes and (array.dtype != np.float32 or (takes_bytes and on_gpu)):
        wanted = "uint8 [B,H,W,3]" if on_gpu else "uint8, or float32, normalised"
        raise MisuseError(
            f"pixels are {array.dtype}; wanted {wanted if takes_bytes else 'float32, normalised'}"
        )
    if array.ndim != 4 or array.shape[3 if is_bytes else 1] != 3 or array.shape[0] < 1:
        wanted = "uint8 [B,H,W,3]" if is_bytes else "[B,3,H,W]"
        raise MisuseError(f"pixels have shape {list(array.shape)}; wanted {wanted} with B >= 1")
    height, width = sides_of(array)
    if height % patch_size or width % patch_size or not height or not width:
        raise MisuseError(
            f"pixels are {height}x{width}; wanted multiples of the patch size {patch_size}: resize or pad"
        )
    if min(height, width) < least_side:
        raise MisuseError(
            f"pixels are {height}x{width}; this model takes {least_side} or more on both sides: a "
            "smaller image has too few places for its queries"
        )


def run_fixed(
    run: Callable[[AnyArray], dict[str, FloatArray]],
    pixels: AnyArray,
    fixed: Collection[str],
    steps: Preprocess,
) -> dict[str, FloatArray]:
    """Run an engine of which batch, height or width is fixed; a fixed batch is one image at a time.

    Raises MisuseError for another size.
    """
    height, width = sides_of(pixels)
    if {"height", "width"} & set(fixed) and (height, width) != (steps.height, steps.width):
        raise MisuseError(
            f"pixels are {height}x{width}; this model takes {steps.height}x{steps.width} only: leave the "
            "input size out, or export it again with another one (--imgsz)"
        )
    if "batch" not in fixed or len(pixels) == 1:
        return run(pixels)
    rows = [run(pixels[index : index + 1]) for index in range(len(pixels))]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _as_array(pixels: Any) -> AnyArray:
    if isinstance(pixels, np.ndarray) or not hasattr(pixels, "__dlpack__"):
        if hasattr(pixels, "__cuda_array_interface__"):
            raise MisuseError("pixels are on a GPU; wanted CPU memory: copy them there first")
        return np.asarray(pixels)
    device, number = pixels.__dlpack_device__()
    if device not in _HOST:
        raise MisuseError(
            f"pixels are on device {number} of DLPack type {int(device)}; "
            "wanted CPU memory: copy them there first"
        )
    try:
        return np.from_dlpack(pixels)
    except (BufferError, RuntimeError, TypeError) as error:  # torch: a tensor that requires grad, or bfloat16
        raise MisuseError(f"pixels cannot be shared by DLPack: {reason_of(error)}") from error
