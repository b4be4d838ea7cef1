"""What a JPEG costs before it is decoded: its scans, its memory, and the scale at which it fits.

Source: ITU-T T.81, annex B for markers, and libjpeg-turbo's libjpeg.txt for scaling.
"""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from PIL import Image

from dinodeploy.errors import ImageError, ImageTooLargeError
from dinodeploy.images.limits import MAX_PIXELS, ImageLimits

JPEG_FORMATS = ("JPEG", "MPO")
SCALES = (1, 2, 4, 8)  # of the decoder
_END, _SCAN = 0xD9, 0xDA
# 0xFF, marker, length, then the first byte (a scan: its components) and the sixth (a frame: its components)
_SEGMENT = struct.Struct(">BBHB4xB")
_WINDOW = 2048  # bytes: most headers without a thumbnail or profile
_SEQUENTIAL = (0xC0, 0xC1, 0xC3, 0xC9, 0xCB)  # start of frame: baseline, extended, lossless, arithmetic
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
# A marker inside or after coded data: neither a stuffed byte, a restart, nor fill bytes.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def reduction_for(width: int, height: int) -> int:
    """The scale, 1, 2, 4 or 8, at which a JPEG is decoded so that it has at most MAX_PIXELS.

    It depends on the image alone, so that every command sees the same pixels.
    """
    if width * height <= MAX_PIXELS:
        return 1
    fits = (scale for scale in SCALES if -(-width // scale) * -(-height // scale) <= MAX_PIXELS)
    return next(fits, SCALES[-1])


def check_cost(image: Image.Image, scale: int, limits: ImageLimits) -> None:
    """Raises ImageError for too many scans, ImageTooLargeError for too much memory.

    A decoder keeps all coefficients of an image that has several scans, and goes through all of it at each.
    """
    scans = count_scans(image.fp, limits.max_scans)  # type: ignore[attr-defined]
    if scans == 1:
        return
    if scans > limits.max_scans:
        raise ImageError(
            f"a JPEG with more than {limits.max_scans} scans, which takes as long as that many images; "
            "save it again"
        )
    needed = _coefficients(image) + 4 * (image.width // scale) * (image.height // scale)
    if limits.memory is not None and needed > limits.memory:
        raise ImageTooLargeError(
            f"a JPEG of {image.width}x{image.height} pixels in {scans} scans takes {needed >> 20} MiB to "
            f"decode, wanted at most {limits.memory >> 20}; save it as baseline JPEG or raise --max-pixels"
        )


def count_scans(file: BinaryIO, most: int) -> int:
    """The number of scans of the JPEG at the start of `file`; at most `most` + 1.

    Only the headers are read where the first scan holds all components and is not progressive.
    """
    if _is_one_scan(file):
        return 1
    file.seek(0)
    data, at, scans = file.read(), 2, 0
    while scans <= most and (found := _MARKER.search(data, at)) is not None:
        marker = data[found.end() - 1]
        if marker == _END:
            break
        scans += marker == _SCAN
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return scans


def frame_bits(file: BinaryIO) -> int | None:
    """The bits per sample that the frame header of a JPEG states, None where there is no header."""
    file.seek(0)
    found = re.search(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..(.)", file.read(1 << 16), re.DOTALL)
    return found[1][0] if found is not None else None


def _is_one_scan(file: BinaryIO) -> bool:
    """Whether the headers promise a single scan. False where they are damaged."""
    start, window = 0, b""  # of the file: a read for each segment would take longer than all of Pillow's
    at, components = 2, 0
    while True:
        if at + _SEGMENT.size > start + len(window):
            start = file.seek(at)
            window = file.read(_WINDOW)
            if len(window) < _SEGMENT.size:
                return False
        fill, marker, length, first, last = _SEGMENT.unpack_from(window, at - start)
        if fill != 0xFF:
            return False
        if marker == _SCAN:
            return bool(first == components)
        if marker in _PROGRESSIVE:
            return False
        if marker in _SEQUENTIAL:
            components = last
        at += 2 + length


def _coefficients(image: Image.Image) -> int:
    """Bytes of all coefficients, two each; components may be subsampled."""
    factors = [across * down for _, across, down, _ in getattr(image, "layer", ())] or [1]
    return 2 * image.width * image.height * sum(factors) // max(factors)
