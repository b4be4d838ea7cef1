"""Bytes of a picture -> upright, opaque RGB, or a `BrokenImage` of one line.

EXIF orientation is applied, transparency laid over white, 16-bit grey scaled, of an animation the first
frame taken: the picture that the runtime embeds is the picture that training saw.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dinov3_ref.errors import BrokenImage

# Lower case, compared without regard to case: what counts as a picture in folders and archives.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif",
)  # fmt: skip

# Every other decoder of Pillow stays out of reach of foreign files. AVIF is there from Pillow 11.3 on.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")


def decode_rgb(data: bytes, name: str) -> Image.Image:
    """Encoded picture -> Pillow image in mode RGB. `name` is for the message of the `BrokenImage` raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Pillow can mend
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.init()
            image = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:  # whose words end in a memory address
        raise BrokenImage(f"{name!r} is not a picture; wanted one of {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise anything at all on foreign bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BrokenImage(f"{name!r} cannot be decoded: {reason}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int32).clip(0, 65535)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))  # 65535 / 257 = 255, rounded
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known white; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # La has no direct way to RGBA
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
