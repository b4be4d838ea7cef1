"""Which kinds of image are read, and what is said of the others."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from dinodeploy.errors import ImageError
from dinodeploy.images import kinds
from dinodeploy.images.limits import ImageLimits
from dinodeploy.images.open import open_image


def box(major: bytes, *compatible: bytes) -> bytes:
    body = major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + bytes(500)


CONTENT = {
    "HEIF": [
        box(b"heic", b"mif1", b"heic"),
        box(b"mif1", b"mif1", b"heic"),
        box(b"msf1", b"hevc"),
        box(b"heix"),
    ],
    "AVIF": [box(b"avif", b"mif1", b"miaf"), box(b"mif1", b"avif", b"miaf"), box(b"avis")],
    "camera raw": [
        box(b"crx ", b"crx ", b"isom"),
        b"II*\0\x10\0\0\0CR\2\0" + bytes(60),
        b"IIRO\x08\0\0\0" + bytes(60),
        b"IIU\0" + bytes(60),
        b"FUJIFILMCCD-RAW " + bytes(60),
        b"FOVb" + bytes(60),
        b"\0MRM" + bytes(60),
        b"II\x1a\0\0\0HEAPCCDR" + bytes(60),
    ],
    "JPEG XL": [b"\xff\x0a" + bytes(60), b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60)],
    "Photoshop document": [b"8BPS\0\1" + bytes(60)],
    "GIMP document": [b"gimp xcf v011" + bytes(60)],
    "icon": [b"\0\0\1\0\1\0" + bytes(60), b"icns" + bytes(60)],
    "DirectDraw surface": [b"DDS \x7c" + bytes(60)],
    "OpenEXR image": [b"v/1\x01" + bytes(60)],
    "Radiance HDR image": [b"#?RADIANCE\n" + bytes(60)],
    "PFM image": [b"PF\n2 2\n-1\n" + bytes(60)],
    "SVG drawing": [b"<svg xmlns=''>" + bytes(60), b"<?xml version='1.0'?>\n<svg>" + bytes(60)],
    "PDF document": [b"%PDF-1.7" + bytes(60)],
    "PostScript document": [b"%!PS-Adobe" + bytes(60)],
    "FITS image": [b"SIMPLE  =                    T" + bytes(60)],
    "QOI image": [b"qoif" + bytes(60)],
    "JPEG XR image": [b"II\xbc\1" + bytes(60)],
    "video": [box(b"isom", b"mp42"), box(b"qt  ")],
}


@pytest.mark.parametrize("name", CONTENT)
def test_content_says_the_kind(name: str) -> None:
    for content in CONTENT[name]:
        kind = kinds.kind_by_content(content[: kinds.HEAD])
        assert kind is not None
        assert kind.name == name
        if kind.advice:
            with pytest.raises(ImageError) as caught:
                open_image(content)
            assert f"{name} is not read here: {kind.advice}" in str(caught.value)


def test_what_pillow_recognises_is_left_to_it() -> None:
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, name)
        assert kinds.kind_by_content(buffer.getvalue()[: kinds.HEAD]) is None


def test_suffixes_are_of_one_kind_each() -> None:
    suffixes = [suffix for kind in (*kinds.READ, *kinds.REFUSED) for suffix in kind.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in suffixes)
    for name, wanted in (
        ("a.JPG", True),
        ("a.tiff", True),
        ("a.dng", False),
        ("a.txt", False),
        ("jpg", False),
    ):
        assert kinds.has_image_suffix(name) is wanted
    assert kinds.kind_by_suffix("IMG_1.DNG") is kinds.CAMERA_RAW


def test_every_kind_that_is_not_read_names_a_way_out() -> None:
    assert all(kind.advice for kind in kinds.REFUSED)
    assert kinds.FORMATS["HEIF"].way_out == "install what reads it: pip install 'dinodeploy[heif]'"


def test_a_name_without_matching_content_is_said(tmp_path: Path) -> None:
    (tmp_path / "scan.TGA").write_bytes(b"\0\0\2" + bytes(60))
    with pytest.raises(ImageError, match=r"not an image.*; Targa image: convert to JPEG or PNG first"):
        open_image(tmp_path / "scan.TGA")


def test_a_camera_raw_suffix_on_a_tiff_is_camera_raw(tmp_path: Path) -> None:
    """Most raw files are TIFFs that begin with a thumbnail; some do not say so."""
    Image.new("RGB", (160, 120)).save(tmp_path / "good.tif")
    for content in ((tmp_path / "good.tif").read_bytes(), b"II*\0" + bytes(200)):
        for name in ("a.NEF", "a.dng", "a.arw"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(
                ImageError, match="camera raw is not read here: convert to JPEG or TIFF first"
            ):
                open_image(tmp_path / name)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.dng", "JPEG")
    assert open_image(tmp_path / "b.dng").size == (8, 8)  # by its content


def test_formats_may_be_limited() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "TIFF")
    open_image(buffer.getvalue())
    with pytest.raises(ImageError, match="TIFF, wanted one of JPEG, PNG"):
        open_image(buffer.getvalue(), limits=ImageLimits(formats=("JPEG", "PNG")))


@pytest.mark.parametrize(
    "content", [b"P3\n2 1\n255\n1 2 3 4 5 6\n", b"P5\n2 1\n100\n\1\2", b"P1\n2 1\n1 0\n"]
)
def test_formats_that_pillow_decodes_in_python_may_be_refused(content: bytes) -> None:
    assert open_image(content).size == (2, 1)
    with pytest.raises(ImageError, match="PPM in a slow variant: save it as PNG"):
        open_image(content, limits=ImageLimits(python_decoders=False))
