"""Structure of image files: what is accepted, what it is estimated to cost, and what is refused early."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from dinodeploy.errors import ImageError
from dinodeploy.serve.decoders.formats import ACCEPTED, format_of, inspect_image
from tests.support.images.hostile_images import encode, hostile_files, many_scans

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 255, (90, 120, 3), np.uint8))
IN_PYTHON = ("BMP run-length", "PPM text", "PGM maximum")  # whose structure is fine: test_worker
HOSTILE = {name: data for name, data in hostile_files().items() if name not in IN_PYTHON}
EXIF = b"Exif\0\0II*\0\x08\0\0\0\0\0"

HONEST: dict[str, list[dict[str, Any]]] = {
    "JPEG": [{}, {"progressive": True}, {"exif": EXIF}, {"icc_profile": b"x" * 200_000}],
    "PNG": [{}, {"optimize": True}],
    "WEBP": [{}, {"lossless": True}, {"exif": EXIF}],
    "GIF": [{}, {"comment": b"a" * 5000}],
    "BMP": [{}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"big_tiff": True}],
    "PPM": [{}],
    "JPEG2000": [{}, {"no_jp2": True}],
    **({"AVIF": [{}]} if "avif" in features.get_supported_modules() else {}),  # Pillow 11.3
}  # fmt: skip


@pytest.mark.parametrize(("name", "options"), [(n, o) for n, options in HONEST.items() for o in options])
def test_honest_files_are_recognised_with_their_size(name: str, options: dict[str, object]) -> None:
    found = inspect_image(encode(NOISE, name, **options))
    assert (found.format, found.pixels) == (name, 120 * 90)
    assert 0 < found.seconds < 0.05


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_structure_is_refused_fast(name: str) -> None:
    before = time.perf_counter()
    with pytest.raises(ImageError):
        inspect_image(HOSTILE[name])
    assert time.perf_counter() - before < 0.5


def test_a_format_that_is_not_accepted_is_named() -> None:
    with pytest.raises(ImageError, match="GIF is not accepted here, wanted one of JPEG, PNG"):
        inspect_image(encode(NOISE, "GIF"), ("JPEG", "PNG"))
    assert set(HONEST) < set(ACCEPTED)


def test_more_scans_cost_more_and_animations_are_taken() -> None:
    few, many = (inspect_image(many_scans(count, 3000)).seconds for count in (1, 80))
    assert many > 2 * few
    frames = [Image.new("RGB", (20, 10), (level, 0, 0)) for level in range(0, 250, 10)]
    for name in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encode(frames[0], name, save_all=True, append_images=frames[1:])
        assert inspect_image(data).pixels == 200


def test_cut_and_random_files_never_raise_anything_else() -> None:
    for name, options in HONEST.items():
        data = encode(NOISE, name, **options[0])
        for _ in range(200):
            mutated = bytearray(data[: int(RNG.integers(1, len(data)))])
            for at in RNG.integers(0, min(len(mutated), 64), 3):
                mutated[at] = int(RNG.integers(0, 256))
            try:
                inspect_image(bytes(mutated))
            except ImageError:
                continue


def test_nothing_that_is_recognised_by_pillow_escapes() -> None:
    """Pillow's openers accept by prefix; each prefix of an accepted format is known here."""
    Image.init()
    known = {"MPO": "JPEG"}
    for name in ACCEPTED:
        accept = Image.OPEN.get(name, (None, None))[1]
        if accept is None or name == "HEIF":
            continue
        for _ in range(2000):
            prefix = bytes(RNG.integers(0, 256, 16, np.uint8))
            if accept(prefix) is True:
                assert format_of(prefix) == known.get(name, name)
    for first in range(256):
        for second in range(256):
            prefix = bytes((first, second)) + bytes(14)
            if Image.OPEN["PPM"][1](prefix) is True:  # type: ignore[misc]
                assert format_of(prefix) == "PPM"
