"""HEIC photographs of phones: with the extra they are images, without it the message names it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import ImageError, ImageTooLargeError
from dinodeploy.images.open import open_image
from tests.support.images.photographs import photograph

pillow_heif = pytest.importorskip("pillow_heif")
PHOTO = photograph("chelsea").resize((96, 64))


def heic(image: Image.Image, **options: object) -> bytes:
    """The extra's own encoder; a build without one skips the test."""
    file = io.BytesIO()
    try:
        pillow_heif.from_pillow(image).save(file, quality=100, chroma=444, **options)
    except (RuntimeError, ValueError) as error:
        pytest.skip(f"no HEIC encoder: {error}")
    return file.getvalue()


def test_a_heic_photograph_is_read() -> None:
    seen = np.asarray(open_image(heic(PHOTO))).astype(int)
    assert np.abs(seen - np.asarray(PHOTO)).mean() < 1


def test_transparency_is_over_white() -> None:
    clear = PHOTO.copy()
    clear.putalpha(0)
    assert (np.asarray(open_image(heic(clear))) >= 254).all()


def test_the_orientation_is_applied_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    seen = open_image(heic(PHOTO, exif=exif.tobytes()))
    assert seen.size == (64, 96)
    wanted = np.asarray(PHOTO.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(np.asarray(seen).astype(int) - wanted).mean() < 1


def test_the_pixel_limit_holds() -> None:
    with pytest.raises(ImageTooLargeError, match="got 96x64 pixels, wanted at most 100"):
        open_image(heic(PHOTO), max_pixels=100)


def test_a_damaged_file_is_refused() -> None:
    data = heic(PHOTO)
    for cut in (40, 200, len(data) // 2):
        with pytest.raises(ImageError):
            open_image(data[:cut])


def test_without_the_extra_the_message_names_it(tmp_path: Path) -> None:
    """In a process of its own: the answer of `find_spec` is kept."""
    (tmp_path / "a.heic").write_bytes(heic(PHOTO))
    program = f"""
import sys
sys.modules["pillow_heif"] = None
from dinodeploy.images.kinds import has_image_suffix, kind_by_suffix
from dinodeploy.images.open import open_image
from dinodeploy.errors import ImageError
assert not has_image_suffix("a.heic")
try:
    open_image({str(tmp_path / "a.heic")!r})
except ImageError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "HEIF is not read here: install what reads it: pip install 'dinodeploy[heif]'" in ran.stdout, (
        ran.stderr
    )
