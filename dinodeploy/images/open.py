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
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image

from dinodeploy.errors import ImageError, reason_of
from dinodeploy.files.regular import open_regular
from dinodeploy.images.colours import GreyLevels, to_rgb
from dinodeploy.images.jpeg import JPEG_FORMATS, check_cost, frame_bits, reduction_for
from dinodeploy.images.kinds import CAMERA_RAW, FORMATS, HEAD, Kind, kind_by_content, kind_by_suffix
from dinodeploy.images.limits import DEFAULT_LIMITS, MAX_PIXELS, ImageLimits, check_pixels
from dinodeploy.images.png import is_deep_key, open_deep_key, scale_key

T = TypeVar("T")
ScaleFor = Callable[[int, int], int]  # width and height of an upright image -> 1, 2, 4 or 8
Factory = Callable[..., Image.Image]  # of Pillow: a file and its name
Source = str | Path | bytes | Image.Image | np.ndarray[Any, Any]

# The depth of the first component, its highest bit the sign: ISO/IEC 15444-1, A.5.1.
_SIZ = re.compile(rb"\xff\x4f\xff\x51.{38}(.)", re.DOTALL)
_AT_ONCE = 1 << 16  # bytes of a file to read at once; Pillow reads headers in dozens of small steps
_MAGIC = 16  # bytes by which Pillow's decoders recognise a file

_PLAIN = GreyLevels()
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


def open_image(
    source: Source, *, max_pixels: int | None = MAX_PIXELS, limits: ImageLimits | None = None
) -> Image.Image:
    """A path, bytes, Pillow image or uint8 array [H, W, 3 | 4] or [H, W] -> Pillow image, mode RGB.

    limits: what may be decoded. max_pixels: another limit in pixels, None for no limit; `limits` replaces it.
    A JPEG above MAX_PIXELS is decoded at half its size or less. Raises ImageError; above the limit,
    ImageTooLargeError.
    """
    return open_reduced(source, whole, max_pixels=max_pixels, limits=limits)[0]


def open_reduced(
    source: Source,
    scale_for: ScaleFor,
    *,
    max_pixels: int | None = MAX_PIXELS,
    limits: ImageLimits | None = None,
) -> tuple[Image.Image, tuple[int, int]]:
    """As `open_image`, with the original width and height; a JPEG may be decoded at 1/`scale_for(width,
    height)`.

    The decoder then skips the finest part of the cosine transform, which saves most of the time. The JPEG is
    decoded in full if the scale does not divide its sides, or if it is neither grey nor YCbCr.
    """
    if limits is None:
        limits = DEFAULT_LIMITS if max_pixels == MAX_PIXELS else ImageLimits(max_pixels, max_pixels)
    if isinstance(source, (str, Path)):
        return _open_file(os.fspath(source), limits, scale_for)
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "bytes", limits, scale_for)
    if isinstance(source, np.ndarray):
        return _finish(_from_array(source), "array", limits, None)
    if isinstance(source, Image.Image):
        return _finish(source, "image", limits, None)  # reducing would change the caller's image
    raise ImageError(f"got {type(source).__name__}, wanted a path, bytes, a Pillow image or a uint8 array")


def whole(width: int, height: int) -> int:
    """The scale of an image that is decoded in full."""
    return 1


def _open_file(path: str, limits: ImageLimits, scale_for: ScaleFor) -> tuple[Image.Image, tuple[int, int]]:
    where = repr(path)  # a name with a line break stays one line
    try:
        with open_regular(path) as file:
            start = file.read(_AT_ONCE)
            if len(start) < _AT_ONCE:  # all of it
                return _read(io.BytesIO(start), where, limits, scale_for)
            file.seek(0)
            return _read(file, where, limits, scale_for)
    except OSError as error:
        raise ImageError(f"{where}: cannot be opened: {reason_of(error)}") from error


def _read(
    file: BinaryIO, where: str, limits: ImageLimits, scale_for: ScaleFor
) -> tuple[Image.Image, tuple[int, int]]:
    return _finish(_identify(file, where, limits), where, limits, scale_for)


def _identify(file: BinaryIO, where: str, limits: ImageLimits) -> Image.Image:
    """The image in `file`; its header is read, its pixels are not.

    Image.open warns of every image near Pillow's limit, and only a process-wide setting can silence that. Our
    own limit is checked next, so the decoders are called directly.
    """
    head = file.read(HEAD)
    if not head:
        raise ImageError(f"{where}: the file is empty")
    known = kind_by_content(head)
    if known is not None and not known.is_readable:
        raise ImageError(f"{where}: {known.name} is not read here: {known.way_out}")
    for kind in FORMATS.values() if known is None else (known,):
        factory, accept = _decoder(kind)
        if factory is not None and _accepts(accept, head[:_MAGIC]):
            if limits.formats is not None and kind.name not in limits.formats:
                raise ImageError(f"{where}: {kind.name}, wanted one of {', '.join(limits.formats)}")
            if kind.name == "TIFF" and _kind_of_name(where) is CAMERA_RAW:  # which begins with a thumbnail
                raise ImageError(f"{where}: {CAMERA_RAW.name} is not read here: {CAMERA_RAW.way_out}")
            opener = _OPENERS.get(kind.name, _open_other)
            image = _guard(partial(opener, factory, file, limits), where)
            if not limits.python_decoders and any(tile[0] in Image.DECODERS for tile in image.tile):  # type: ignore[attr-defined]
                raise ImageError(f"{where}: {kind.name} in a slow variant: save it as PNG")
            return image
    if known is not None:
        raise ImageError(f"{where}: this Pillow reads no {known.name}: {known.way_out}")
    raise ImageError(
        f"{where}: not an image, wanted one of {', '.join(limits.formats or FORMATS)}{_named(where)}"
    )


def _open_other(factory: Factory, file: BinaryIO, limits: ImageLimits) -> Image.Image:
    file.seek(0)
    return factory(file, "")


def _open_jpeg(factory: Factory, file: BinaryIO, limits: ImageLimits) -> Image.Image:
    file.seek(0)
    try:
        return factory(file, "")
    except SyntaxError as error:  # Pillow's word for what it cannot do
        bits = frame_bits(file)
        if bits in (None, 8):
            raise
        raise ImageError(f"a JPEG of {bits} bits per sample, wanted 8; convert it to 8 bits") from error


def _open_png(factory: Factory, file: BinaryIO, limits: ImageLimits) -> Image.Image:
    file.seek(0)
    image = factory(file, "")
    if not is_deep_key(image):
        return image
    check_pixels(image.size, limits.max_pixels)
    return open_deep_key(file)


def _open_tiff(factory: Factory, file: BinaryIO, limits: ImageLimits) -> Image.Image:
    """Through Pillow where its pixels are right, else through tifffile."""
    from dinodeploy.images.tiff import TiffFacts, can_read, read_tiff  # most jobs have none

    file.seek(0)
    try:
        image = factory(file, "")
    except Exception as error:
        doubt = reason_of(error)
    else:
        facts = TiffFacts.of(image.tag_v2)  # type: ignore[attr-defined]
        facts.refuse()
        doubt = facts.doubt()
        if not doubt:
            return image
    if not limits.python_decoders or not can_read():
        raise ImageError(
            f"a TIFF that Pillow does not read right ({doubt}): pip install 'dinodeploy[tiff]', or convert "
            "it to 8-bit RGB"
        )
    try:
        return read_tiff(file, limits)
    except ImageError:
        raise
    except Exception as error:
        why = "no whole image" if isinstance(error, LookupError) else reason_of(error)  # tags that are absent
        raise ImageError(f"cannot be decoded: {doubt}; tifffile: {why}") from error


def _open_jpeg_2000(factory: Factory, file: BinaryIO, limits: ImageLimits) -> Image.Image:
    file.seek(0)
    found = _SIZ.search(file.read(1 << 16))
    if found is not None and found[1][0] & 0x80:
        raise ImageError("signed samples have no known white level; convert to 8 or 16 bits without a sign")
    return _open_other(factory, file, limits)


def _open_jpeg_xl(factory: Factory, file: BinaryIO, limits: ImageLimits) -> Image.Image:
    from dinodeploy.images.jpeg_xl import read_jpeg_xl  # here, for the start of commands

    try:
        return read_jpeg_xl(file, limits)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot be decoded: {reason_of(error)}") from error


_OPENERS = {
    "TIFF": _open_tiff,
    "PNG": _open_png,
    "JPEG": _open_jpeg,
    "JPEG2000": _open_jpeg_2000,
    "JPEG XL": _open_jpeg_xl,
}


def _kind_of_name(where: str) -> Kind | None:
    """The kind that the suffix of a quoted path promises."""
    return kind_by_suffix(where.rstrip("'\""))


def _named(where: str) -> str:
    """What to do about a file whose name promises a kind that is not read."""
    kind = _kind_of_name(where)
    return f"; {kind.name}: {kind.way_out}" if kind is not None and not kind.is_readable else ""


def _decoder(kind: Kind) -> tuple[Callable[..., Image.Image] | None, Callable[[bytes], bool | str] | None]:
    """Pillow's opener and recogniser of a kind; (None, None) without the package or library that reads it."""
    if kind.name == "JPEG XL":  # which Pillow does not know
        return Image.open, lambda prefix: kind_by_content(prefix) is kind
    if kind.name not in Image.OPEN and kind.module is not None:
        with suppress(ImportError):
            module = import_module(kind.module)
            if kind.name == "HEIF":
                module.register_heif_opener()
    return Image.OPEN.get(kind.name, (None, None))


def _accepts(accept: Callable[[bytes], bool | str] | None, prefix: bytes) -> bool:
    try:
        return accept is None or accept(prefix) is True  # a string explains why a decoder is missing
    except IndexError:  # a file of one byte
        return False


def _finish(
    image: Image.Image, where: str, limits: ImageLimits, scale_for: ScaleFor | None
) -> tuple[Image.Image, tuple[int, int]]:
    """Check the size, decode, turn upright, convert to RGB; and the upright size before any reduction."""
    return _guard(partial(_decode, image, limits, scale_for), where)


def _decode(
    image: Image.Image, limits: ImageLimits, scale_for: ScaleFor | None
) -> tuple[Image.Image, tuple[int, int]]:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"got {width}x{height} pixels, wanted at least one")
    is_jpeg = image.format in JPEG_FORMATS and scale_for is not None
    most = limits.max_reduced if is_jpeg else limits.max_pixels
    check_pixels(image.size, most)
    levels = _before_decoding(image)
    stored = image.size
    scale, orientation = 1, 0
    if is_jpeg and scale_for is not None:
        orientation = _orientation(image)
        scale = _reduce(image, orientation in _SIDEWAYS, scale_for, limits)
    image.load()  # before the orientation of others: TIFF turns itself, PNG may keep its EXIF at the end
    turn = _TURNS.get(orientation or _orientation(image))
    rgb = to_rgb(image, levels)
    if scale > 1:  # the decoder rounds up, which may add the part of a pixel
        rgb = rgb.crop((0, 0, max(1, round(stored[0] / scale)), max(1, round(stored[1] / scale))))
    if turn is not None:
        rgb = rgb.transpose(turn)
        rgb.info = {}  # its EXIF would turn the image again when it is opened again
    if (width > height) != (rgb.width > rgb.height):
        width, height = height, width
    return rgb, (width, height)


def _before_decoding(image: Image.Image) -> GreyLevels:
    """What of an image's header decides its colours; also of an image that a caller opened with Pillow."""
    if image.format == "PNG":
        scale_key(image)
        if is_deep_key(image):
            raise ImageError(
                "a 16-bit image with a transparent colour; give the file instead of the Pillow image"
            )
    if image.format != "TIFF" or not hasattr(image, "tag_v2"):
        return _PLAIN
    from dinodeploy.images.tiff import TiffFacts

    facts = TiffFacts.of(image.tag_v2)
    facts.refuse()
    if doubt := facts.doubt():
        raise ImageError(f"a TIFF that Pillow does not read right ({doubt}); give the file instead")
    return facts.grey_levels


def _reduce(image: Image.Image, sideways: bool, scale_for: ScaleFor, limits: ImageLimits) -> int:
    """Set the scale at which a JPEG is decoded, and return it. Raises ImageError for one that costs too much.

    A scale that does not divide both sides would stretch the image: it is used only for the JPEGs that are
    too large otherwise.
    """
    width, height = image.size
    least = reduction_for(width, height)
    scale = 1
    if image.mode in ("L", "RGB"):
        scale = scale_for(height, width) if sideways else scale_for(width, height)
        scale = scale if least > 1 or (width % scale == 0 and height % scale == 0) else 1
    scale = max(least, scale)
    check_cost(image, scale, limits)
    if scale > 1:
        image.draft(None, (max(1, width // scale), max(1, height // scale)))
    return scale


def _guard(step: Callable[[], T], where: str) -> T:
    """Run one step inside Pillow, whose decoders may raise any exception on foreign bytes."""
    try:
        return step()
    except ImageError as error:
        raise type(error)(f"{where}: {error}") from error
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
