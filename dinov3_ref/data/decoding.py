"""Decode image bytes to upright, opaque RGB.

EXIF orientation is applied, transparency is blended with white, 16-bit grey is scaled to 8 bits, and the
first frame of an animation is used: the same rules as in the runtime, so both see the same pixels.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dinov3_ref.errors import BrokenImage

# Suffixes of image files in folders and archives; compared in lower case.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif",
)  # fmt: skip

# Untrusted files may only use these Pillow decoders. AVIF needs Pillow 11.3.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")


def decode_rgb(data: bytes, name: str) -> Image.Image:
    """Encoded image -> Pillow image in mode RGB. Raises `BrokenImage`, with `name` in its message."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about errors that Pillow can fix
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.init()
            image = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:  # its message ends in a memory address
        raise BrokenImage(f"{name!r} is not an image; wanted one of {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise any exception on bad bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BrokenImage(f"{name!r} cannot be decoded: {reason}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int32).clip(0, 65535)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))  # 65535 / 257 = 255, rounded
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; convert the image to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # Pillow has no La -> RGBA
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
