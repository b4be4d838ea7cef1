"""Convert what a decoder made into opaque 8-bit RGB: one policy for depth, transparency and colour spaces.

The policy is documented in docs/preprocessing.md.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dinodeploy.errors import ImageError

STRIP = 2_000_000  # pixels that are blended at a time


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode -> RGB. Raises ImageError where its white level is unknown."""
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
    """In strips: an image of 50 megapixels would otherwise take 750 MB, in four copies."""
    opaque = Image.new("RGB", image.size)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        strip = (
            strip.convert("LA") if strip.mode == "La" else strip
        )  # Pillow cannot convert La to RGBA directly
        strip = strip.convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        opaque.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return opaque


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
