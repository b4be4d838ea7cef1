"""Convert what a decoder made into opaque 8-bit RGB: one policy for depth, transparency and colour spaces.

The policy is documented in docs/preprocessing.md.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray, ByteArray
from dinodeploy.errors import ImageError

STRIP = 2_000_000  # pixels that are blended at a time
FLOAT_STRIP = 500_000  # pixels that are converted in floats at a time
# XYZ for the white point D50 -> linear sRGB, with Bradford's adaptation to D65.
# Source: http://www.brucelindbloom.com/index.html?Eqn_RGB_XYZ_Matrix.html
_XYZ_TO_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
_D50 = np.array([0.96422, 1.0, 0.82521])


@dataclass(frozen=True)
class GreyLevels:
    """What grey values of more than 8 bits mean: `white` is the highest; if `inverted`, that is black."""

    white: int = 65535
    inverted: bool = False


def to_rgb(image: Image.Image, levels: GreyLevels = GreyLevels()) -> Image.Image:
    """An image of any mode -> RGB. Raises ImageError where its white level is unknown."""
    if image.mode.startswith("I"):
        return _from_16_bits(image, levels)
    if image.mode == "F":
        raise ImageError("floating-point pixels have no known white level; convert the image to 8 or 16 bits")
    if image.has_transparency_data:
        return _over_white(image)
    if image.mode == "CMYK":
        return _from_cmyk(image)
    if image.mode == "LAB":
        return _from_lab(image)
    return image.convert("RGB") if image.mode != "RGB" else image


def eight_bits(values: AnyArray, white: int) -> ByteArray:
    """Integers from 0 to `white` -> 0..255, rounded."""
    if white == 255:
        return values.astype(np.uint8)
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def lab_to_rgb(lightness: AnyArray, ab: AnyArray) -> ByteArray:
    """CIE L* [H,W] in 0..100 and a*, b* [H,W,2], white point D50 -> sRGB [H,W,3].

    Source: CIE 15:2018, 8.2.1.
    """
    height, width = lightness.shape
    made = np.empty((height, width, 3), np.uint8)
    rows = max(1, FLOAT_STRIP // width)
    for top in range(0, height, rows):
        part = slice(top, top + rows)
        f = (lightness[part].astype(np.float64) + 16) / 116
        xyz = np.stack([f + ab[part, :, 0] / 500, f, f - ab[part, :, 1] / 200], axis=-1)
        xyz = np.where(xyz > 6 / 29, xyz**3, 3 * (6 / 29) ** 2 * (xyz - 4 / 29)) * _D50
        linear = np.clip(xyz @ _XYZ_TO_SRGB.T, 0, 1)
        srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        made[part] = np.rint(255 * srgb)
    return made


def _from_16_bits(image: Image.Image, levels: GreyLevels) -> Image.Image:
    """I;16 in any byte order, or I, which holds the same numbers in 32 bits -> RGB, over white."""
    values = np.asarray(image).astype(np.int32)
    lowest, highest = values.min(), values.max()
    if lowest < 0 or highest > levels.white:
        raise ImageError(
            f"grey values from {lowest} to {highest}, wanted 0 to {levels.white}; convert to 8 or 16 bits"
        )
    grey = eight_bits(values, levels.white)
    grey = 255 - grey if levels.inverted else grey
    if isinstance(key := image.info.get("transparency"), int):
        grey[values == key] = 255
    return Image.fromarray(grey).convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    """Pillow's own conversion is off by up to 39 of 255 for saturated colours."""
    lightness, a, b = (np.asarray(band) for band in image.split())  # a and b from -128 on
    return Image.fromarray(lab_to_rgb(lightness * (100 / 255), np.stack([a, b], axis=-1) - 128.0))


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
