"""TIFF layouts that Pillow reads wrong, and files that are no photographs."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.errors import ImageError, ImageTooLargeError
from dinodeploy.images.limits import ImageLimits
from dinodeploy.images.open import open_image
from tests.support.images.matrix_case import levels, ramps
from tests.support.images.tiff_writer import Layout, write_tiff

pytest.importorskip("tifffile", reason="the extra tiff is not installed")
pytest.importorskip("imagecodecs", reason="the extra tiff is not installed")

RGB16 = levels(ramps()[..., :3], 16)
PLANES = write_tiff(RGB16, Layout(2, 16, planar=True))


def test_16_bits_with_white_at_zero() -> None:
    grey = levels(ramps()[..., :1], 16)
    seen = np.asarray(open_image(write_tiff(grey, Layout(0, 16))))
    np.testing.assert_array_equal(seen[..., 0], 255 - np.rint(grey[..., 0] / 257))


def test_planes_of_16_bits_need_the_extra() -> None:
    assert np.abs(np.asarray(open_image(PLANES)) - np.rint(RGB16 / 257)).max() <= 1
    with pytest.raises(
        ImageError, match=r"3 uncompressed planes of 16 bits.*pip install 'dinodeploy\[tiff\]'"
    ):
        open_image(PLANES, limits=ImageLimits(python_decoders=False))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_counts_whichever_reader_is_used(orientation: int) -> None:
    turned = {274: [orientation]}
    planes = write_tiff(RGB16, Layout(2, 16, planar=True, more=turned))
    chunky = write_tiff(RGB16, Layout(2, 16, more=turned))
    one, other = (np.asarray(open_image(data)).astype(int) for data in (planes, chunky))
    assert one.shape == other.shape
    assert np.abs(one - other).max() <= 1


def test_a_palette_of_8_bits_is_not_black() -> None:
    colours = np.arange(768).reshape(3, 256) % 251
    samples = levels(ramps()[..., :1], 8)
    data = write_tiff(samples, Layout(3, 8, more={320: colours.ravel().tolist()}))
    np.testing.assert_array_equal(np.asarray(open_image(data)), colours.T[samples[..., 0]])


def test_a_cmyk_image_of_16_bits_in_planes_keeps_its_profile() -> None:
    """As in one plane, where Pillow reads it."""
    samples = levels(ramps()[..., :4], 16)
    one, other = (
        np.asarray(open_image(write_tiff(samples, Layout(5, 16, planar=planar)))).astype(int)
        for planar in (False, True)
    )
    assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize(
    "more", [{254: [1]}, {50706: [1, 4, 0, 0]}, {254: [1], 330: [8]}], ids=["thumbnail", "DNG", "SubIFDs"]
)
def test_a_camera_raw_file_is_not_its_thumbnail(more: dict[int, list[int]]) -> None:
    data = write_tiff(levels(ramps()[..., :3], 8), Layout(2, 8, more=more))
    with pytest.raises(ImageError, match="camera raw is not read here: convert to JPEG or TIFF first"):
        open_image(data)
    for photometric in (32803, 34892):
        samples = levels(ramps()[..., :1], 16)
        with pytest.raises(ImageError, match="camera raw is not read here"):
            open_image(write_tiff(samples, Layout(photometric, 16)))


def test_subsampled_colours_without_compression_are_refused() -> None:
    for more in ({530: [2, 2]}, {530: [2, 1]}, {}):
        with pytest.raises(ImageError):
            open_image(write_tiff(levels(ramps()[..., :3], 8), Layout(6, 8, more=more)))


def test_the_pixel_limit_holds_for_both_readers() -> None:
    for data in (PLANES, write_tiff(RGB16, Layout(2, 16))):
        with pytest.raises(ImageTooLargeError, match="got 29x19 pixels, wanted at most 100"):
            open_image(data, max_pixels=100)


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (Layout(1, 32), "samples of 32 bits have no known white level; convert to 8 or 16 bits"),
        (
            Layout(1, 16, "signed"),
            "signed or undefined samples have no known white level; convert to 8 or 16",
        ),
        (Layout(1, 32, "float"), "floating-point pixels have no known white level; convert the image"),
        (Layout(4, 1), "TIFF of a transparency mask"),
        (Layout(1, 8, extra=(0, 0)), "3 samples per pixel, wanted 1"),
    ],
)
def test_what_has_no_known_white_is_refused(layout: Layout, reason: str) -> None:
    samples = ramps()[..., : 1 + len(layout.extra)]
    data = write_tiff(samples if layout.kind == "float" else levels(samples, min(layout.bits, 30)), layout)
    with pytest.raises(ImageError, match=reason):
        open_image(data)


def test_file_without_an_image_says_so() -> None:
    with pytest.raises(ImageError, match="tifffile: no whole image"):
        open_image(b"II*\0" + bytes(200))
