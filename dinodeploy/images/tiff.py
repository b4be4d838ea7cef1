"""TIFF: which layouts Pillow reads right, and the others through tifffile (extra `tiff`), or why not.

Source: TIFF 6.0, sections 4 to 8, 16, 18, 20, 23; tifffile for what Pillow and libtiff do not read.
Shapes: H, W pixels, S samples per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray, FloatArray
from dinodeploy.errors import ImageError
from dinodeploy.images.colours import FLOAT_STRIP, GreyLevels, eight_bits, lab_to_rgb
from dinodeploy.images.kinds import CAMERA_RAW
from dinodeploy.images.limits import ImageLimits, check_pixels

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, LAB, ICC_LAB = 0, 1, 2, 3, 4, 5, 6, 8, 9
_NAMES = {MASK: "a transparency mask", 10: "ITU Lab", 32844: "LogL", 32845: "LogLuv"}
_RAW_PHOTOMETRIC = (32803, 34892)  # colour filter array, linear raw: of DNG and other cameras' files
_SAMPLES = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3, ICC_LAB: 3}
_ASSOCIATED, _UNASSOCIATED = 1, 2
_UNSIGNED = 1
_NONE, _WEBP = 1, 50001  # compression
_COLORMAP, _ICC_PROFILE, _DNG_VERSION = 320, 34675, 50706
_USED = (254, 258, 259, 262, 266, 274, 277, 284, 338, 339, 530)  # tags of numbers
_MOST_SAMPLES = 16
# Pillow has no reader for these in reversed order of bits: photometric and bits.
_UNREVERSED = ((WHITE_IS_ZERO, 8), (PALETTE, 1), (PALETTE, 2), (PALETTE, 4))

_WAY_OUT = "convert to 8 or 16 bits, grey or RGB"


@dataclass(frozen=True)
class TiffFacts:
    """The tags that decide what samples mean, of the first image."""

    photometric: int
    bits: int
    format: int  # 1 unsigned, 2 signed, 3 float
    samples: int
    planar: bool
    compression: int
    fill_order: int
    extra: tuple[int, ...]
    subsampling: tuple[int, ...]
    is_thumbnail: bool
    is_raw: bool
    is_palette_narrow: bool

    @classmethod
    def of(cls, tags: Any) -> TiffFacts:
        """From a mapping of tag numbers, as Pillow's `tag_v2`. Raises ImageError for mixed sample types."""
        bits, formats = _numbers(tags, 258, (1,)), _numbers(tags, 339, (_UNSIGNED,))
        if len(set(bits)) > 1 or len(set(formats)) > 1:
            raise ImageError(f"samples of {' and '.join(map(str, bits))} bits; {_WAY_OUT}")
        photometric = _numbers(tags, 262, (0,))[0]
        return cls(
            photometric=photometric,
            bits=bits[0],
            format=formats[0],
            samples=_numbers(tags, 277, (len(bits),))[0],
            planar=_numbers(tags, 284, (1,))[0] == 2,
            compression=_numbers(tags, 259, (_NONE,))[0],
            fill_order=_numbers(tags, 266, (1,))[0],
            extra=_numbers(tags, 338, ()),
            subsampling=_numbers(tags, 530, (2, 2)),
            is_thumbnail=bool(_numbers(tags, 254, (0,))[0] & 1),
            is_raw=photometric in _RAW_PHOTOMETRIC or _DNG_VERSION in tags,
            is_palette_narrow=photometric == PALETTE and bool(np.max(tags.get(_COLORMAP, 256)) < 256),
        )

    def refuse(self) -> None:
        """Raises ImageError for samples that no reader can turn into 8-bit RGB without a guess."""
        if self.is_raw or (self.is_thumbnail and self.photometric != MASK):
            raise ImageError(f"{CAMERA_RAW.name} is not read here: {CAMERA_RAW.way_out}")
        if self.photometric not in _SAMPLES:
            raise ImageError(
                f"TIFF of {_NAMES.get(self.photometric, f'photometric {self.photometric}')}; {_WAY_OUT}"
            )
        if self.format == 3:
            raise ImageError(
                "floating-point pixels have no known white level; convert the image to 8 or 16 bits"
            )
        if self.format != _UNSIGNED:
            raise ImageError(f"signed or undefined samples have no known white level; {_WAY_OUT}")
        if self.bits > 16:
            raise ImageError(f"samples of {self.bits} bits have no known white level; {_WAY_OUT}")

    @property
    def grey_levels(self) -> GreyLevels:
        return GreyLevels(
            (1 << self.bits) - 1 if 8 < self.bits < 16 else 65535, self.photometric == WHITE_IS_ZERO
        )

    def doubt(self) -> str:
        """What Pillow gets wrong about this layout; empty if nothing. Found by the matrix of tests."""
        alpha = next((kind for kind in self.extra if kind in (_ASSOCIATED, _UNASSOCIATED)), None)
        uncompressed, is_ycbcr = self.compression == _NONE, self.photometric == YCBCR
        if self.planar and self.samples > 1:
            if self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, LAB):
                return "grey with alpha or Lab in separate planes"
            if uncompressed and (self.bits != 8 or self.fill_order != 1 or self.extra or is_ycbcr):
                return f"{self.samples} uncompressed planes of {self.bits} bits"
            if len(self.extra) > 1:
                return f"{self.samples} planes"
        if uncompressed and self.fill_order != 1 and (self.photometric, self.bits) in _UNREVERSED:
            return f"{self.bits}-bit samples in reversed order of bits"
        if alpha == _ASSOCIATED and self.bits != 8:
            return f"{self.bits}-bit colours that are multiplied by their alpha"
        if self.compression == _WEBP:
            return "WebP inside TIFF"
        if self.is_palette_narrow:
            return "a palette in 8 bits"
        if is_ycbcr and uncompressed and self.subsampling != (1, 1):
            return "uncompressed YCbCr with fewer colour samples than pixels"
        return ""


def _numbers(tags: Any, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = tags.get(tag, default)
    numbers = value if isinstance(value, (tuple, list)) else (value,)
    if not all(isinstance(number, int) for number in numbers):
        raise ImageError(f"TIFF tag {tag} is no number")
    return tuple(int(number) for number in numbers) or default


def can_read() -> bool:
    """Whether the extra is installed."""
    return find_spec("tifffile") is not None and find_spec("imagecodecs") is not None


def read_tiff(file: BinaryIO, limits: ImageLimits) -> Image.Image:
    """The first image of a TIFF as RGB, through tifffile. Raises ImageError."""
    import logging

    import tifffile

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it says goes into our message
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        width, height = page.imagewidth, page.imagelength
        check_pixels((width, height), limits.max_pixels)
        tags = {tag.code: _plain(tag.value) if tag.code in _USED else tag.value for tag in page.tags}
        facts = TiffFacts.of(tags)
        facts.refuse()
        if facts.samples > _MOST_SAMPLES or page.imagedepth != 1:
            raise ImageError(f"{facts.samples} samples and {page.imagedepth} slices; {_WAY_OUT}")
        if page.is_tiled and page.tilewidth * page.tilelength > max(4 * width * height, 1 << 24):
            raise ImageError(f"tiles of {page.tilewidth}x{page.tilelength} pixels in a smaller image")
        samples = np.asarray(page.asarray()).reshape(
            (facts.samples, height, width) if facts.planar else (height, width, facts.samples)
        )
        if facts.planar:
            samples = np.moveaxis(samples, 0, 2)
        image = _image(samples, facts, tags)
        orientation = _numbers(tags, 274, (1,))[0]
        if orientation != 1:
            image.getexif()[274] = orientation
        return image


def _plain(value: Any) -> Any:
    """tifffile's enumerations as numbers."""
    if isinstance(value, (tuple, list)):
        return tuple(int(one) for one in value)
    return int(value) if hasattr(value, "__int__") else value


def _image(samples: AnyArray, facts: TiffFacts, tags: Any) -> Image.Image:
    """Samples [H,W,S] as RGB over white; CMYK without alpha stays, for its colour profile."""
    count = _SAMPLES[facts.photometric]
    extra = facts.extra[: max(0, facts.samples - count)]
    if facts.samples < count or (count == 1 and facts.samples > 2):
        raise ImageError(f"{facts.samples} samples per pixel, wanted {count}; {_WAY_OUT}")
    white = (1 << facts.bits) - 1
    if facts.photometric == CMYK:
        if {*extra} & {_ASSOCIATED, _UNASSOCIATED}:
            raise ImageError("CMYK with transparency; convert it to RGB")
        made = Image.fromarray(eight_bits(np.ascontiguousarray(samples[..., :4]), white), "CMYK")
        if profile := tags.get(_ICC_PROFILE):
            made.info["icc_profile"] = profile
        return made
    table = _palette(tags.get(_COLORMAP), facts) if facts.photometric == PALETTE else None
    height, width = samples.shape[:2]
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, FLOAT_STRIP // width)
    for top in range(0, height, rows):
        part = samples[top : top + rows]
        colours = _colours(part[..., :count], facts, table)
        alpha = next((at for at, kind in enumerate(extra) if kind in (_ASSOCIATED, _UNASSOCIATED)), None)
        if alpha is not None:
            opacity = part[..., count + alpha, None] / np.float64(white)
            colours = colours * (opacity if extra[alpha] == _UNASSOCIATED else 1) + 1 - opacity
        rgb[top : top + rows] = np.rint(255 * np.clip(colours, 0, 1))
    return Image.fromarray(rgb)


def _colours(samples: AnyArray, facts: TiffFacts, table: FloatArray | None) -> AnyArray:
    """Samples of one strip -> RGB or grey [h,W,3 | 1] in 0..1."""
    if table is not None:
        return table[samples[..., 0].astype(np.intp)]
    if facts.photometric in (LAB, ICC_LAB):
        return _lab(samples, facts) / np.float64(255)
    shares: AnyArray = samples / np.float64((1 << facts.bits) - 1)
    if facts.photometric == WHITE_IS_ZERO:
        return 1 - shares
    if facts.photometric == YCBCR:
        if facts.bits != 8:
            raise ImageError(f"YCbCr of {facts.bits} bits, wanted 8; {_WAY_OUT}")
        return np.asarray(
            Image.fromarray(np.ascontiguousarray(samples), "YCbCr").convert("RGB")
        ) / np.float64(255)
    return shares


def _palette(colormap: Any, facts: TiffFacts) -> FloatArray:
    """The colours [2^bits,3] in 0..1. Old programs wrote 8 bits, not 16 (checkcmap in libtiff)."""
    if colormap is None or np.size(colormap) != 3 << facts.bits:
        raise ImageError("a palette image without its palette")
    table = np.asarray(colormap, np.float32).reshape(3, -1).T
    return table / np.float32(255 if facts.is_palette_narrow else 65535)


def _lab(samples: AnyArray, facts: TiffFacts) -> AnyArray:
    """CIE L*a*b* has signed a and b; ICC L*a*b* has them from -128 on. Source: TIFF 6.0, section 23."""
    if facts.bits not in (8, 16):
        raise ImageError(f"Lab of {facts.bits} bits, wanted 8 or 16; {_WAY_OUT}")
    unit, half = 1 << (facts.bits - 8), 1 << (facts.bits - 1)
    ab = samples[..., 1:].astype(np.int32)
    ab = (ab + half) % (2 * half) - half if facts.photometric == LAB else ab - half
    return lab_to_rgb(samples[..., 0] * (100 / ((1 << facts.bits) - 1)), ab / unit)
