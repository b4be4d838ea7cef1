"""The transparent colour of PNG images that are not 8 bits deep."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import ImageError
from dinodeploy.images.open import open_image


def png(depth: int, colour: int, rows: list[bytes], key: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">2I5B", 2, len(rows), depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = ((b"IHDR", header), (b"tRNS", key), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("depth", "row", "other"), [(1, b"\x80", 0), (2, b"\x60", 170), (4, b"\x18", 136), (8, b"\1\x08", 8)]
)
def test_the_transparent_grey_is_white(depth: int, row: bytes, other: int) -> None:
    """The first pixel has the value 1, which is transparent."""
    assert np.asarray(open_image(png(depth, 0, [row], b"\0\1")))[0].tolist() == [[255] * 3, [other] * 3]


def test_all_16_bits_of_the_transparent_colour_count() -> None:
    grey = struct.pack(">2H", 0x1234, 0x1235)
    assert np.asarray(open_image(png(16, 0, [grey], b"\x12\x34")))[0].tolist() == [[255] * 3, [18] * 3]
    colours = struct.pack(">6H", 0x1234, 1, 2, 0x1234, 1, 3)
    data = png(16, 2, [colours], struct.pack(">3H", 0x1234, 1, 2))
    assert np.asarray(open_image(data))[0].tolist() == [[255] * 3, [18, 0, 0]]
    with pytest.raises(ImageError, match="give the file instead of the Pillow image"):
        open_image(Image.open(io.BytesIO(data)))


def test_a_callers_image_is_right_too() -> None:
    image = Image.open(io.BytesIO(png(4, 0, [b"\x18"], b"\0\1")))
    for _ in range(2):
        assert np.asarray(open_image(image))[0].tolist() == [[255] * 3, [136] * 3]
