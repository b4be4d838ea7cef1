"""Every image format becomes upright, opaque RGB; everything else raises a one-line `BrokenImage`."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dinov3_ref.data.decoding import decode_rgb
from dinov3_ref.errors import BrokenImage
from tests.support.images.image_files import encoded
from tests.support.images.photographs import photograph


def file_of(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_formats(format: str) -> None:
    image = decode_rgb(encoded("chelsea", format=format), "chelsea")
    assert (image.mode, image.size) == ("RGB", (120, 90))


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK"])
def test_modes(mode: str) -> None:
    photo = photograph("coffee").resize((60, 40)).convert(mode)
    assert decode_rgb(file_of(photo, "TIFF"), "x").mode == "RGB"


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode_rgb(file_of(photograph("coffee").resize((60, 40)), "JPEG", exif=exif), "x")
    assert image.size == (40, 60)


def test_transparency_is_blended_with_white() -> None:
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 255, 255))
    image = decode_rgb(file_of(clear), "x")
    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == [(255, 255, 255), (0, 0, 255)]


def test_sixteen_bits_are_scaled() -> None:
    grey = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    image = decode_rgb(file_of(grey), "x")
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]  # type: ignore[index]


@pytest.mark.parametrize("data", [encoded("coffee")[:700], encoded("coffee", format="PNG")[:700]])
def test_broken_files(data: bytes) -> None:
    with pytest.raises(BrokenImage, match=r"^'a\\nb\.jpg' cannot be decoded: .+$") as caught:
        decode_rgb(data, "a\nb.jpg")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"no image", b"%!PS-Adobe"])
def test_other_files(data: bytes) -> None:
    with pytest.raises(BrokenImage, match=r"^'x' is not an image; wanted one of JPEG, .*AVIF$"):
        decode_rgb(data, "x")


def test_floats_and_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BrokenImage, match="floating-point"):
        decode_rgb(file_of(Image.new("F", (2, 2)), "TIFF"), "x")
    data = encoded("chelsea")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 120 * 90 - 1)
    with pytest.raises(BrokenImage, match="exceeds limit of 10799 pixels"):
        decode_rgb(data, "x")
