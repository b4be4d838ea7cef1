"""JPEG XL through imagecodecs (extra `tiff`), whose libjxl decodes it; the header is read here first.

The header says how large an image is and what its samples mean, before anything is decoded. Read are grey and
RGB of unsigned 8 to 16 bits, with or without straight alpha; everything else is refused with its reason.

Source: ISO/IEC 18181-1 (codestream, D: headers), 18181-2 (container).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray, ByteArray
from dinodeploy.errors import ImageError
from dinodeploy.images.colours import FLOAT_STRIP, eight_bits
from dinodeploy.images.limits import ImageLimits, check_pixels

_CODESTREAM = b"\xff\x0a"
_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_HEADER = 1 << 12  # bytes of a codestream that its header is read from
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIDES = ((1, 9), (1, 13), (1, 18), (1, 30))
_ENUM = ((0, 0), (1, 0), (2, 4), (18, 6))
_ALPHA = 0  # type of an extra channel
_EXTRA = ("alpha", "depth", "spot colour", "selection mask", "black", "colour filter array", "thermal")
_WAY_OUT = "convert to PNG first"


@dataclass(frozen=True)
class JxlHeader:
    """Of the image as stored, before it is turned upright."""

    width: int
    height: int
    bits: int
    is_float: bool
    extra: tuple[int, ...]  # types of the channels beside colour
    is_associated: bool  # whether colours are multiplied by alpha

    def refuse(self) -> None:
        """Raises ImageError for samples that cannot be turned into 8-bit RGB without a guess."""
        if self.is_float:
            raise ImageError("floating-point pixels have no known white level; convert to 8 or 16 bits")
        if self.bits > 16:
            raise ImageError(f"samples of {self.bits} bits have no known white level; {_WAY_OUT}")
        if self.extra not in ((), (_ALPHA,)):
            names = ", ".join(_EXTRA[kind] if kind < len(_EXTRA) else f"type {kind}" for kind in self.extra)
            raise ImageError(f"JPEG XL with other channels than colour and alpha ({names}); {_WAY_OUT}")
        if self.is_associated:
            raise ImageError(f"JPEG XL whose colours are multiplied by their alpha; {_WAY_OUT}")


class _Bits:
    """Reads numbers from a codestream, lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def number(self, bits: int) -> int:
        if bits > self._left:
            raise ImageError("cut off within its header")
        value = self._value & ((1 << bits) - 1)
        self._value >>= bits
        self._left -= bits
        return value

    def flag(self) -> bool:
        return bool(self.number(1))

    def choice(self, *choices: tuple[int, int]) -> int:
        """One of four: an offset, and a number of so many bits on top."""
        offset, bits = choices[self.number(2)]
        return offset + self.number(bits)


def read_header(data: bytes) -> JxlHeader:
    """The header of a file. Raises ImageError for one that is cut or damaged."""
    bits = _Bits(_codestream(data)[len(_CODESTREAM) : _HEADER])
    width, height = _size(bits)
    depth, is_float, associated = 8, False, False
    extra: tuple[int, ...] = ()
    if not bits.flag():  # image metadata other than the default
        if bits.flag():
            _skip_extra_fields(bits)
        depth, is_float = _bit_depth(bits)
        bits.flag()  # whether 16 bits are enough inside the decoder
        channels = [_extra_channel(bits) for _ in range(bits.choice((0, 0), (1, 0), (2, 4), (1, 12)))]
        extra = tuple(kind for kind, _ in channels)
        associated = any(flag for _, flag in channels)
    return JxlHeader(width, height, depth, is_float, extra, associated)


def read_jpeg_xl(file: BinaryIO, limits: ImageLimits) -> Image.Image:
    """The first image of a file as grey or RGB over white, upright. Raises ImageError."""
    file.seek(0)
    data = file.read()
    header = read_header(data)
    check_pixels((header.width, header.height), limits.max_pixels)
    header.refuse()
    import imagecodecs

    pixels = np.asarray(imagecodecs.jpegxl_decode(data, index=0, numthreads=1))
    if sorted(pixels.shape[:2]) != sorted((header.height, header.width)):
        raise ImageError(f"its header says {header.width}x{header.height} pixels, it has {pixels.shape[:2]}")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    white = (1 << header.bits) - 1
    if pixels.max() > white:  # imagecodecs before 2024.12.30 scales other depths than 8 and 16
        raise ImageError(f"values above {white}: this imagecodecs is too old; pip install -U imagecodecs")
    pixels = _over_white(pixels, white) if header.extra else eight_bits(pixels, white)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _over_white(pixels: AnyArray, white: int) -> ByteArray:
    """Colours and straight alpha [H,W,C+1] -> bytes [H,W,C]."""
    height, width, channels = pixels.shape
    made = np.empty((height, width, channels - 1), np.uint8)
    rows = max(1, FLOAT_STRIP // width)
    for top in range(0, height, rows):
        shares = pixels[top : top + rows] / np.float64(white)
        opacity = shares[..., -1:]
        made[top : top + rows] = np.rint(255 * (shares[..., :-1] * opacity + 1 - opacity))
    return made


def _codestream(data: bytes) -> bytes:
    """The start of the codestream, bare or in the first boxes of a container."""
    if data.startswith(_CODESTREAM):
        return data[:_HEADER]
    if not data.startswith(_CONTAINER):
        raise ImageError("no JPEG XL signature")
    at, found = len(_CONTAINER), b""
    while at + 8 <= len(data) and len(found) < _HEADER:
        size, kind, start = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        end = len(data) if size == 0 else at + size
        if end < start:
            raise ImageError("a box of its container is shorter than its own header")
        if kind == b"jxlc":
            return data[start : min(end, start + _HEADER)]
        if kind == b"jxlp":  # a part, after its number
            found += data[start + 4 : min(end, start + 4 + _HEADER)]
        at = end
    if not found.startswith(_CODESTREAM):
        raise ImageError("a container without an image")
    return found


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.flag()
    height = 8 * (1 + bits.number(5)) if small else bits.choice(*_SIDES)
    ratio = bits.number(3)
    if ratio:
        across, down = _RATIOS[ratio - 1]
        return height * across // down, height
    return (8 * (1 + bits.number(5)) if small else bits.choice(*_SIDES)), height


def _skip_extra_fields(bits: _Bits) -> None:
    """Orientation, intrinsic size, preview, animation."""
    bits.number(3)
    if bits.flag():
        _size(bits)
    if bits.flag():
        _skip_preview(bits)
    if bits.flag():
        bits.choice((100, 0), (1000, 0), (1, 10), (1, 30))  # ticks per second, numerator and denominator
        bits.choice((1, 0), (1001, 0), (1, 8), (1, 10))
        bits.choice((0, 0), (0, 3), (0, 16), (0, 32))  # loops
        bits.flag()  # time codes


def _skip_preview(bits: _Bits) -> None:
    small = bits.flag()
    sides = ((16, 0), (32, 0), (1, 5), (33, 9)) if small else ((1, 6), (65, 8), (321, 10), (1345, 12))
    bits.choice(*sides)
    if bits.number(3) == 0:
        bits.choice(*sides)


def _bit_depth(bits: _Bits) -> tuple[int, bool]:
    if bits.flag():
        depth = bits.choice((32, 0), (16, 0), (24, 0), (1, 6))
        bits.number(4)  # bits of the exponent
        return depth, True
    return bits.choice((8, 0), (10, 0), (12, 0), (1, 6)), False


def _extra_channel(bits: _Bits) -> tuple[int, bool]:
    """Its type, and whether it is alpha that colours are multiplied by."""
    if bits.flag():
        return _ALPHA, False
    kind = bits.choice(*_ENUM)
    _bit_depth(bits)
    bits.choice((0, 0), (3, 0), (4, 0), (1, 3))  # how much smaller it is
    for _ in range(bits.choice((0, 0), (0, 4), (16, 5), (48, 10))):
        bits.number(8)  # its name
    associated = kind == _ALPHA and bits.flag()
    if kind == 2:  # spot colour: red, green, blue, solidity
        bits.number(64)
    elif kind == 5:
        bits.choice((1, 0), (0, 2), (3, 4), (19, 8))
    return kind, associated
