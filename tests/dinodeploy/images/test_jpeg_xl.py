"""JPEG XL against the arrays that were encoded, and headers that are not what they should be."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray

from dinodeploy.errors import ImageError, ImageTooLargeError
from dinodeploy.images.jpeg_xl import read_header
from dinodeploy.images.limits import ImageLimits
from dinodeploy.images.open import open_image

imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra tiff")
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"


def noise(shape: tuple[int, ...], kind: str, white: int | None = None) -> NDArray[np.integer]:
    dtype = np.dtype(kind)
    top = np.iinfo(dtype).max if white is None else white
    return np.random.default_rng(0).integers(0, top + 1, shape, dtype=dtype)


def encode(pixels: NDArray[np.generic], **options: object) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, **options))


def as_shown(pixels: NDArray[np.integer], white: int) -> NDArray[np.float64]:
    """RGB over white in 0..255, in float64."""
    shares = pixels.reshape(*pixels.shape[:2], -1) / white
    if shares.shape[2] in (2, 4):
        shares = shares[..., :-1] * shares[..., -1:] + 1 - shares[..., -1:]
    return 255 * np.broadcast_to(shares, (*shares.shape[:2], 3))


def turned(data: bytes, orientation: int) -> bytes:
    """A lossless RGB image without a container, of an orientation that the encoder cannot write."""
    bits = [byte >> at & 1 for byte in data[2:] for at in range(8)]
    sizes = 26  # of two sides of 9 bits each
    fields = [1, *((orientation - 1) >> at & 1 for at in range(3)), 0, 0, 0]
    head = [*bits[: sizes + 1], *fields, *bits[sizes + 2 : 36], 1, *bits[36:40]]  # 1: usual tone mapping
    whole = [*head, *[0] * (-len(head) % 8), *bits[40:]]
    return data[:2] + bytes(sum(whole[at + k] << k for k in range(8)) for at in range(0, len(whole), 8))


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("shape", [(50, 70), (50, 70, 2), (50, 70, 3), (50, 70, 4), (64, 64, 3), (300, 2000)])
def test_pixels(shape: tuple[int, ...], kind: str, boxes: bool) -> None:
    pixels = noise(shape, kind)
    image = open_image(encode(pixels, usecontainer=boxes))
    assert (image.mode, image.size) == ("RGB", (shape[1], shape[0]))
    assert np.abs(np.asarray(image) - as_shown(pixels, np.iinfo(pixels.dtype).max)).max() <= 0.5


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_other_depths(bits: int) -> None:
    pixels = noise((33, 20, 3), "u2", (1 << bits) - 1)
    shown = np.asarray(open_image(encode(pixels, bitspersample=bits)))
    assert np.abs(shown - as_shown(pixels, (1 << bits) - 1)).max() <= 0.5


@pytest.mark.parametrize(("orientation", "quarters"), [(3, 2), (6, -1), (8, 1)])
def test_it_is_turned_upright(orientation: int, quarters: int) -> None:
    pixels = noise((50, 70, 3), "u1")
    shown = np.asarray(open_image(turned(encode(pixels), orientation)))
    np.testing.assert_array_equal(shown, np.rot90(pixels, quarters))


@pytest.mark.parametrize("side", [1, 8, 256, 511, 512, 513, 9000])
@pytest.mark.parametrize("ratio", [(1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1), (1, 7)])
def test_the_header_has_the_size(side: int, ratio: tuple[int, int]) -> None:
    height, width = side, max(1, side * ratio[0] // ratio[1])
    header = read_header(encode(np.zeros((height, width), np.uint8), effort=1))
    assert (header.width, header.height) == (width, height)


def test_a_large_image_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(np.zeros((3000, 4000), np.uint8), effort=1)
    monkeypatch.setattr(imagecodecs, "jpegxl_decode", None)
    with pytest.raises(ImageTooLargeError, match="got 4000x3000 pixels, wanted at most 1000000"):
        open_image(data, max_pixels=1_000_000)


def test_floats_have_no_white() -> None:
    with pytest.raises(ImageError, match="no known white level"):
        open_image(encode(np.zeros((8, 8), np.float32)))


def test_other_formats_may_be_wanted() -> None:
    with pytest.raises(ImageError, match="JPEG XL, wanted one of PNG"):
        open_image(encode(noise((8, 8), "u1")), limits=ImageLimits(formats=("PNG",)))


def test_damaged_files() -> None:
    data = encode(noise((50, 70, 3), "u1"))
    for length in (2, 4, 40, len(data) - 10):
        with pytest.raises(ImageError, match=r"cut off within its header|cannot be decoded"):
            open_image(data[:length])
    for rest, words in (
        (b"\0\0\0\0ftyp", "without an image"),
        (b"\0\0\0\4jxlc" + data, "shorter than its own header"),
        (b"\0\0\0\1jxlc" + (3).to_bytes(8, "big") + data, "shorter than its own header"),
    ):
        with pytest.raises(ImageError, match=words):
            open_image(CONTAINER + rest)
    for at in range(2, 60):
        broken = bytearray(data)
        broken[at] ^= 0xFF
        with suppress(ImageError):  # and no other error
            open_image(bytes(broken))
