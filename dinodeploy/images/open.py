"""Open an image as a viewer shows it: upright, opaque, 8-bit RGB.

    animation                       its first frame
    EXIF orientation                applied, all eight
    transparency of any kind        over white
    grey, palette, 1-bit            converted to RGB
    16-bit grey                     0..65535 -> 0..255, rounded
    CMYK with a colour profile      through the profile to sRGB; without one, Pillow's conversion
    YCbCr, LAB, HSV                 converted
    floating point                  refused: its white level is unknown

The colour profile of an RGB image is ignored, as in the transforms that models are trained with. Whatever
cannot be read is an ImageError of one line, never another exception, and never blocks. Safe to call from many
threads: no setting of Pillow or of `warnings` is changed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image

from dinodeploy.errors import ImageError, ImageTooLargeError, reason_of
from dinodeploy.files.regular import open_regular

T = TypeVar("T")
ScaleFor = Callable[[int, int], int]  # width and height of an upright image -> 1, 2, 4 or 8
Source = str | Path | bytes | Image.Image | np.ndarray[Any, Any]

MAX_PIXELS = 89_478_485  # Pillow's limit against decompression bombs: 256 MiB in RGB

# Formats that are tried, in this order: Pillow's name -> its module, imported if earlier ones do not accept
# a file. No other decoder is exposed to untrusted files. JPEG covers MPO, the stereo pairs of phones; AVIF
# needs Pillow 11.3.
FORMATS = {
    "JPEG": "Jpeg",
    "PNG": "Png",
    "WEBP": "WebP",
    "GIF": "Gif",
    "BMP": "Bmp",
    "TIFF": "Tiff",
    "PPM": "Ppm",
    "JPEG2000": "Jpeg2K",
    "AVIF": "Avif",
}

_MAGIC = 16  # bytes by which Pillow's decoders recognise a file

_REDUCIBLE = ("JPEG", "MPO")
_ORIENTATION = 0x0112  # EXIF tag
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(source: Source, *, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """A path, bytes, Pillow image or uint8 array [H, W, 3 | 4] or [H, W] -> Pillow image, mode RGB.

    max_pixels: width x height above which an image is refused before it is decoded; None for no limit.
    Raises ImageError; above `max_pixels`, ImageTooLargeError.
    """
    return open_reduced(source, _whole, max_pixels=max_pixels)[0]


def open_reduced(
    source: Source, scale_for: ScaleFor, *, max_pixels: int | None = MAX_PIXELS
) -> tuple[Image.Image, tuple[int, int]]:
    """As `open_image`, with the original width and height; a JPEG may be decoded at 1/`scale_for(width,
    height)`.

    The decoder then skips the finest part of the cosine transform, which saves most of the time. The JPEG is
    decoded in full if the scale does not divide its sides, or if it is neither grey nor YCbCr.
    """
    if isinstance(source, (str, Path)):
        return _open_file(Path(source), max_pixels, scale_for)
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "bytes", len(source), max_pixels, scale_for)
    if isinstance(source, np.ndarray):
        return _finish(_from_array(source), "array", max_pixels, _whole)
    if isinstance(source, Image.Image):
        return _finish(source, "image", max_pixels, _whole)  # reducing would change the caller's image
    raise ImageError(f"got {type(source).__name__}, wanted a path, bytes, a Pillow image or a uint8 array")


def _whole(width: int, height: int) -> int:
    return 1


def _open_file(
    path: Path, max_pixels: int | None, scale_for: ScaleFor
) -> tuple[Image.Image, tuple[int, int]]:
    where = repr(str(path))  # a name with a line break stays one line
    try:
        with open_regular(path) as file:
            return _read(file, where, os.fstat(file.fileno()).st_size, max_pixels, scale_for)
    except OSError as error:
        raise ImageError(f"{where}: cannot be opened: {reason_of(error)}") from error


def _read(
    file: BinaryIO, where: str, size: int, max_pixels: int | None, scale_for: ScaleFor
) -> tuple[Image.Image, tuple[int, int]]:
    if size == 0:
        raise ImageError(f"{where}: the file is empty")
    return _finish(_identify(file, where), where, max_pixels, scale_for)


def _identify(file: BinaryIO, where: str) -> Image.Image:
    """The image in `file`; its header is read, its pixels are not.

    Image.open warns of every image near Pillow's limit, and only a process-wide setting can silence that. Our
    own limit is checked next, so the decoders are called directly.
    """
    prefix = file.read(_MAGIC)
    for name in FORMATS:
        factory, accept = _decoder(name)
        if factory is not None and _accepts(accept, prefix):
            file.seek(0)
            return _guard(partial(factory, file, ""), where)
    raise ImageError(f"{where}: not an image, wanted one of {', '.join(FORMATS)}")


def _decoder(name: str) -> tuple[Callable[..., Image.Image] | None, Callable[[bytes], bool | str] | None]:
    """Pillow's opener and recogniser of a format; (None, None) if Pillow was built without it."""
    if name not in Image.OPEN:
        with suppress(ImportError):
            import_module(f"PIL.{FORMATS[name]}ImagePlugin")
    return Image.OPEN.get(name, (None, None))


def _accepts(accept: Callable[[bytes], bool | str] | None, prefix: bytes) -> bool:
    try:
        return accept is None or accept(prefix) is True  # a string explains why a decoder is missing
    except IndexError:  # a file of one byte
        return False


def _finish(
    image: Image.Image, where: str, max_pixels: int | None, scale_for: ScaleFor
) -> tuple[Image.Image, tuple[int, int]]:
    """Check the size, decode, turn upright, convert to RGB; and the upright size before any reduction."""
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{where}: got {width}x{height} pixels, wanted at least one")
    if max_pixels is not None and width * height > max_pixels:
        raise ImageTooLargeError(
            f"{where}: got {width}x{height} pixels, wanted at most {max_pixels}; shrink it first"
        )
    if image.format in _REDUCIBLE and image.mode in ("L", "RGB"):
        _guard(partial(_reduce, image, scale_for), where)
    _guard(image.load, where)  # before the orientation: TIFF turns itself, PNG may keep its EXIF at the end
    turn = _TURNS.get(_orientation(image))
    rgb = _guard(partial(_to_rgb, image), where)
    if turn is not None:
        rgb = rgb.transpose(turn)
        rgb.info = {}  # its EXIF would turn the image again when it is opened again
    if (width > height) != (rgb.width > rgb.height):
        width, height = height, width
    return rgb, (width, height)


def _reduce(image: Image.Image, scale_for: ScaleFor) -> None:
    """Decode a JPEG at 1/scale, if that divides both sides; otherwise the image would be stretched."""
    width, height = image.size
    sideways = _orientation(image) in _SIDEWAYS
    scale = scale_for(height, width) if sideways else scale_for(width, height)
    if scale > 1 and width % scale == 0 and height % scale == 0:
        image.draft(None, (width // scale, height // scale))


def _guard(step: Callable[[], T], where: str) -> T:
    """Run one step inside Pillow, whose decoders may raise any exception on foreign bytes."""
    try:
        return step()
    except ImageError as error:
        raise ImageError(f"{where}: {error}") from error
    except Exception as error:
        raise ImageError(f"{where}: cannot be decoded: {reason_of(error)}") from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # pixels are fine without EXIF: the image is taken as stored
        return 1


def _from_array(pixels: np.ndarray[Any, Any]) -> Image.Image:
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise ImageError(
            f"array: got {pixels.dtype} {list(pixels.shape)}, wanted uint8 [H, W, 3], [H, W, 4] or [H, W]"
        )
    if pixels.size == 0:
        raise ImageError(f"array: got {list(pixels.shape)}, wanted at least one pixel")
    return Image.fromarray(pixels)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bits(image).convert("RGB")
    if image.mode == "F":
        raise ImageError("floating-point pixels have no known white level; convert the image to 8 or 16 bits")
    if image.has_transparency_data:
        return _over_white(image)
    if image.mode == "CMYK":
        return _from_cmyk(image)
    return image.convert("RGB") if image.mode != "RGB" else image


def _from_16_bits(image: Image.Image) -> Image.Image:
    """I;16 in any byte order, or I, which holds the same numbers in 32 bits -> L."""
    values = np.asarray(image).astype(np.int32)
    lowest, highest = values.min(), values.max()
    if lowest < 0 or highest > 65535:
        raise ImageError(
            f"grey values from {lowest} to {highest}, wanted 0 to 65535; convert to 8 or 16 bits"
        )
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 / 257 = 255, rounded


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("LA") if image.mode == "La" else image  # Pillow cannot convert La to RGBA directly
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _from_cmyk(image: Image.Image) -> Image.Image:
    """Through the image's own profile if it is usable, as image editors do."""
    from PIL import ImageCms

    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (KeyError, ImageCms.PyCMSError, OSError, ImportError):
        converted = None  # no usable profile, or Pillow without LittleCMS
    return converted if converted is not None else image.convert("RGB")
