"""What a JPEG costs before it is decoded."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from dinodeploy.errors import ImageError, ImageTooLargeError
from dinodeploy.images import jpeg
from dinodeploy.images.limits import MAX_PIXELS, ImageLimits
from dinodeploy.images.open import open_image
from tests.support.images.photographs import photograph

SIZE = (96, 64)


def encoded(mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    photograph("chelsea").resize(SIZE).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated `count` times: it still decodes."""
    data = encoded("L", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


@pytest.mark.parametrize(
    ("data", "scans"),
    [
        (encoded(), 1),
        (encoded("L"), 1),
        (encoded("CMYK"), 1),
        (encoded(restart_marker_blocks=1), 1),
        (encoded() + b"\xff\xda" * 900, 1),  # what a phone appends, such as a video, is no scan
        (encoded(progressive=True), 10),
        (encoded("L", progressive=True) + b"\xff\xda" * 900, 6),
        (with_scans(20), 26),
        (with_scans(2000), 501),
    ],
)
def test_scans_are_counted(data: bytes, scans: int) -> None:
    assert jpeg.count_scans(io.BytesIO(data), 500) == scans


def test_a_thumbnail_in_the_header_has_no_scans_of_the_image() -> None:
    exif = Image.Exif()
    exif[0x927C] = encoded(progressive=True)  # a maker's note with a JPEG inside
    assert jpeg.count_scans(io.BytesIO(encoded(exif=exif)), 500) == 1
    assert jpeg.count_scans(io.BytesIO(encoded("L", exif=exif, progressive=True)), 500) == 6


def test_components_in_scans_of_their_own_count_too() -> None:
    """Baseline, but as three scans: libjpeg keeps the coefficients as for a progressive image."""
    data = encoded(subsampling=0)
    scan = data.index(b"\xff\xda")
    header = data[scan : scan + 14]
    assert header[4] == 3
    first = b"\xff\xda\0\x08\x01" + header[5:7] + header[11:14]
    assert jpeg.count_scans(io.BytesIO(data[:scan] + first * 3 + b"\xff\xd9"), 500) == 3


def test_too_many_scans_are_refused() -> None:
    assert open_image(with_scans(400)).size == SIZE
    with pytest.raises(ImageError, match="a JPEG with more than 500 scans"):
        open_image(with_scans(600))
    with pytest.raises(ImageError, match="more than 20 scans"):
        open_image(with_scans(20), limits=ImageLimits(max_scans=20))


def test_a_progressive_image_that_needs_too_much_memory_is_refused() -> None:
    """4:4:4 keeps six bytes of coefficients per pixel, 4:2:0 three. Nothing is decoded here."""
    for subsampling, refused in ((0, True), (2, False)):
        data = bytearray(encoded(progressive=True, subsampling=subsampling))
        frame = data.index(b"\xff\xc2")
        data[frame + 5 : frame + 9] = (12240).to_bytes(2, "big") + (16320).to_bytes(2, "big")
        image = JpegImageFile(io.BytesIO(bytes(data)), "")
        if refused:
            with pytest.raises(ImageTooLargeError, match="a JPEG of 16320x12240 pixels in 10 scans takes"):
                jpeg.check_cost(image, 2, ImageLimits())
            jpeg.check_cost(image, 2, ImageLimits.of(200_000_000))
        else:
            jpeg.check_cost(image, 2, ImageLimits())


def test_the_scale_depends_on_the_image_alone() -> None:
    assert jpeg.reduction_for(9000, 9000) == 1
    assert MAX_PIXELS < 9460 * 9460
    assert jpeg.reduction_for(9460, 9460) == 2
    assert jpeg.reduction_for(16320, 12240) == 2  # 200 megapixels
    assert jpeg.reduction_for(30000, 30000) == 4
    assert jpeg.reduction_for(65500, 65500) == 8


@pytest.mark.slow
@pytest.mark.parametrize("size", [(12001, 9003), (9003, 12001)])
def test_a_large_photograph_is_decoded_at_half_its_size(size: tuple[int, int]) -> None:
    """108 megapixels, off the grid of blocks: as the image that was shrunk instead."""
    photo = photograph("chelsea").resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=95, subsampling=0)
    seen = open_image(file.getvalue())
    assert seen.size == (round(size[0] / 2), round(size[1] / 2))
    small = (400, 300)
    wanted = np.asarray(photo.resize(small, Image.Resampling.BOX), np.int16)
    off = np.abs(np.asarray(seen.resize(small, Image.Resampling.BOX), np.int16) - wanted)
    assert off.max() <= 6  # measured: 5, at the edge of a whisker
    assert (off <= 1).mean() > 0.99
    with pytest.raises(ImageTooLargeError, match="wanted at most 100000000; shrink it first or raise --max-"):
        open_image(file.getvalue(), max_pixels=100_000_000)
