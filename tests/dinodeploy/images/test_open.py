"""Images as a person sees them, and files that are no images."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dinodeploy.errors import ImageError
from dinodeploy.images.open import MAX_PIXELS, open_image, open_reduced

Pixels = np.ndarray[Any, Any]
CAT: Pixels = skimage.data.chelsea()[20:120, 30:180]  # 100 x 150, a real photograph off square

# What a camera held that way stores for the upright image `a` (EXIF 2.32, tag 0x0112: the visual side
# that row 0 and column 0 lie on).
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.transpose(1, 0, 2),  # left, top
    6: lambda a: np.rot90(a, 1),  # right, top
    7: lambda a: np.rot90(a, 1)[:, ::-1],  # right, bottom
    8: lambda a: np.rot90(a, -1),  # left, bottom
}


def pixels(source: Any) -> Pixels:
    image = open_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def assert_refused(source: Any, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        open_image(source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def save(path: Path, array: Pixels, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("suffix", "options"), [("png", {}), ("tiff", {}), ("webp", {"lossless": True}), ("jpg", {"quality": 95})]
)
def test_every_exif_orientation_is_upright(
    tmp_path: Path, orientation: int, suffix: str, options: dict[str, Any]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](CAT))
    path = save(tmp_path / f"x.{suffix}", stored, exif=exif, **options)
    upright = pixels(path)
    assert upright.shape == CAT.shape
    assert np.abs(upright.astype(int) - CAT).mean() < (3 if suffix == "jpg" else 1e-9)
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels(image), upright)
    np.testing.assert_array_equal(pixels(open_image(path)), upright)  # not turned twice


def test_broken_exif_leaves_the_image_as_it_lies(tmp_path: Path) -> None:
    for exif in (
        b"Exif\0\0MM\0*\0\0\0\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0",
    ):
        path = save(tmp_path / "x.jpg", CAT, exif=exif, quality=95)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow has a word to say about such EXIF
            assert pixels(path).shape == CAT.shape


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "HSV", "LAB", "CMYK", "RGBX"])
def test_opaque_modes_keep_the_image(mode: str) -> None:
    photo = Image.fromarray(CAT)
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(photo, srgb, lab, outputMode="LAB")
        assert image is not None
    else:
        image = photo.convert(mode)
    wanted = CAT
    if mode in ("1", "L"):
        wanted = np.repeat(np.asarray(image).astype(np.uint8)[..., None] * (255 if mode == "1" else 1), 3, 2)
    allowed = {"P": 20, "LAB": 4, "HSV": 3, "YCbCr": 2}.get(mode, 0)
    assert np.abs(pixels(image).astype(int) - wanted).mean() <= allowed


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La", "PA"])
def test_transparency_is_over_white(mode: str) -> None:
    alpha = np.zeros(CAT.shape[:2], np.uint8)
    alpha[:, 50:100], alpha[:, 100:] = 128, 255
    grey = np.asarray(Image.fromarray(CAT).convert("L"))
    colour = grey[..., None] if mode in ("LA", "La") else CAT
    image = Image.fromarray(np.dstack([colour, alpha]))
    if mode == "PA":
        image = Image.fromarray(CAT).convert("P")
        colour = np.asarray(image.convert("RGB"))
        image.putalpha(Image.fromarray(alpha))
    image = image.convert(mode)
    assert image.mode == mode
    colours = np.broadcast_to(colour, CAT.shape)
    wanted = np.rint(255 + (colours - 255.0) * (alpha[..., None] / 255))
    allowed = 2 if mode in ("RGBa", "La") else 1
    assert np.abs(pixels(image).astype(int) - wanted).max() <= allowed


def test_palette_with_transparency_and_colour_keys(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 0])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "index.png", transparency=1)
    assert pixels(tmp_path / "index.png").tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 0]]]
    image.save(tmp_path / "table.png", transparency=bytes([255, 0, 51]))
    assert pixels(tmp_path / "table.png").tolist() == [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]
    image.save(tmp_path / "plain.gif")
    assert pixels(tmp_path / "plain.gif").tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 0]]]
    for mode, key, other in (("RGB", (9, 9, 9), (1, 2, 3)), ("L", 9, 7)):
        keyed = Image.new(mode, (2, 1), key)
        keyed.putpixel((1, 0), other)
        keyed.save(tmp_path / "key.png", transparency=key)
        seen = pixels(tmp_path / "key.png")
        assert seen[0, 0].tolist() == [255, 255, 255]
        assert seen[0, 1].tolist() == list(other if isinstance(other, tuple) else (other,) * 3)


def test_16_bit_grey_is_scaled_and_rounded(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257, 32767, 32768, 65406, 65407, 65535]], np.uint16)
    wanted = np.rint(values / 257).astype(np.uint8)
    assert wanted.tolist() == [[0, 0, 1, 1, 127, 128, 254, 255, 255]]
    for path in (save(tmp_path / "x.png", values), save(tmp_path / "x.tiff", values)):
        np.testing.assert_array_equal(pixels(path), np.repeat(wanted[..., None], 3, axis=2))
    for image in (
        Image.fromarray(values.astype(np.int32)),
        Image.frombytes("I;16B", (9, 1), values.astype(">u2").tobytes()),
        Image.frombytes("I;16L", (9, 1), values.astype("<u2").tobytes()),
    ):
        np.testing.assert_array_equal(pixels(image)[..., 0], wanted)


def test_grey_without_a_known_white_is_refused(tmp_path: Path) -> None:
    assert_refused(
        Image.fromarray(np.array([[-1, 3]], np.int32)), "grey values from -1 to 3, wanted 0 to 65535"
    )
    assert_refused(Image.fromarray(np.array([[65536]], np.int32)), "wanted 0 to 65535")
    path = save(tmp_path / "x.tiff", np.ones((4, 5), np.float32))
    assert_refused(path, "floating-point pixels have no known white level")


def test_cmyk_goes_through_its_profile(tmp_path: Path) -> None:
    cmyk = Image.fromarray(CAT).convert("CMYK")
    cmyk.save(tmp_path / "plain.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "plain.jpg").astype(int) - CAT).mean() < 4
    cmyk.save(tmp_path / "broken.tiff", icc_profile=b"not a profile")
    np.testing.assert_array_equal(pixels(tmp_path / "broken.tiff"), np.asarray(cmyk.convert("RGB")))
    rgb_profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    cmyk.save(tmp_path / "foreign.tiff", icc_profile=rgb_profile)
    np.testing.assert_array_equal(pixels(tmp_path / "foreign.tiff"), np.asarray(cmyk.convert("RGB")))


def test_cmyk_profile_decides_the_colour(tmp_path: Path) -> None:
    """Of a printer whose inks are all mid-grey, so that obeying the profile cannot go unseen."""
    image = Image.new("CMYK", (2, 1))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.save(tmp_path / "x.tiff", icc_profile=grey_ink_profile())
    seen = pixels(tmp_path / "x.tiff").astype(int)
    assert np.abs(seen[0] - [[255], [119]]).max() <= 1  # L* 50 is sRGB 119


def grey_ink_profile() -> bytes:
    """A minimal ICC v2 printer profile: one lut8 table A2B0 from CMYK to Lab that is constant."""
    header = (
        b"mft1"
        + bytes(4)
        + bytes([4, 3, 2, 0])
        + struct.pack(">9i", *(65536, 0, 0, 0, 65536, 0, 0, 0, 65536))
    )
    ramp = bytes(range(256))
    lut = header + ramp * 4 + bytes([128, 128, 128]) * 16 + ramp * 3  # L* 50, a* 0, b* 0
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = [(b"A2B0", lut), (b"wtpt", white)]
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        table += name + struct.pack(">2I", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = offset + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


def test_first_frame_of_animations(tmp_path: Path) -> None:
    frames = [Image.fromarray(CAT), Image.fromarray(255 - CAT)]
    for suffix, allowed in (("gif", 20), ("webp", 8), ("png", 0), ("tiff", 0), ("mpo", 4)):
        path = tmp_path / f"x.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert np.abs(pixels(path).astype(int) - CAT).mean() <= allowed, suffix


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff", "ppm", "jp2", "avif"])
def test_every_listed_format_is_read(tmp_path: Path, suffix: str) -> None:
    try:
        path = save(tmp_path / f"x.{suffix}", CAT)
    except (KeyError, ValueError):
        pytest.skip(f"this Pillow writes no {suffix}")
    assert np.abs(pixels(path).astype(int) - CAT).mean() < 20
    unnamed = path.rename(tmp_path / "no suffix, a\nline break")
    assert pixels(str(unnamed)).shape == CAT.shape


def test_other_formats_and_texts_are_refused(tmp_path: Path) -> None:
    Image.fromarray(CAT).save(tmp_path / "x.ico")
    assert_refused(tmp_path / "x.ico", "icon is not read here: convert to JPEG or PNG first")
    for content in (
        b"P",
        b"hello, I am a text\n" * 9,
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"BM",
    ):
        (tmp_path / "text.jpg").write_bytes(content)
        assert_refused(tmp_path / "text.jpg", "text.jpg")


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    for suffix in ("jpg", "png", "webp", "tiff", "bmp"):
        content = save(tmp_path / f"x.{suffix}", CAT).read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
        assert_refused(tmp_path / f"cut.{suffix}", "cannot be decoded")


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "empty.jpg").touch()
    assert_refused(tmp_path / "fifo.jpg", "not a regular file")
    assert_refused(tmp_path / "folder.jpg", "not a regular file")
    assert_refused("/dev/null", "not a regular file")
    assert_refused(tmp_path / "broken.jpg", "cannot be opened: No such file")
    assert_refused(tmp_path / "loop.jpg", "cannot be opened")
    assert_refused(tmp_path / "absent.jpg", "cannot be opened: No such file")
    assert_refused("null\0byte.jpg", "cannot be opened")
    assert_refused(tmp_path / "empty.jpg", "the file is empty")


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes whose header promises width x height pixels."""
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("size", [(9460, 9460), (12000, 12000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_bomb_is_refused_unread_and_without_a_warning(tmp_path: Path, size: tuple[int, int]) -> None:
    assert_refused(
        bomb(tmp_path / "x.png", *size), f"got {size[0]}x{size[1]} pixels, wanted at most 89478485"
    )


def test_pixel_limit_is_the_callers(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", CAT)
    assert open_image(path, max_pixels=15000).size == (150, 100)
    for source in (path, CAT, Image.fromarray(CAT)):
        with pytest.raises(ImageError, match="150x100 pixels, wanted at most 14999"):
            open_image(source, max_pixels=14999)
    # without a limit a huge header is read like any other: here its pixels are missing
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_image(bomb(tmp_path / "x.png", 10000, 9000), max_pixels=None)
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS


def test_extreme_shapes_are_fine(tmp_path: Path) -> None:
    for width, height in ((1, 1), (20000, 3), (3, 20000)):
        path = save(tmp_path / "x.png", np.full((height, width, 3), 7, np.uint8))
        assert open_image(path).size == (width, height)


def test_arrays(tmp_path: Path) -> None:
    np.testing.assert_array_equal(pixels(CAT), CAT)
    np.testing.assert_array_equal(pixels(CAT[::-1, ::2]), CAT[::-1, ::2])
    np.testing.assert_array_equal(pixels(CAT[..., 0]), np.repeat(CAT[..., :1], 3, axis=2))
    clear = np.dstack([CAT, np.zeros(CAT.shape[:2], np.uint8)])
    assert (pixels(clear) == 255).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (CAT.astype(np.float32), "array: got float32 [100, 150, 3], wanted uint8 [H, W, 3]"),
        (CAT.transpose(2, 0, 1), "array: got uint8 [3, 100, 150]"),
        (CAT[None], "array: got uint8 [1, 100, 150, 3]"),
        (CAT[..., :2], "array: got uint8 [100, 150, 2]"),
        (CAT[:0], "array: got [0, 150, 3], wanted at least one pixel"),
        (Image.new("RGB", (0, 5)), "got 0x5 pixels, wanted at least one"),
        (b"bytes", "bytes: not an image, wanted one of JPEG"),
        (b"", "bytes: the file is empty"),
        (None, "got NoneType, wanted a path"),
    ],
)
def test_what_is_no_image_is_refused(source: Any, message: str) -> None:
    assert_refused(source, message)


def test_closed_pillow_image_is_refused(tmp_path: Path) -> None:
    with Image.open(save(tmp_path / "x.png", CAT)) as image:
        pass
    assert_refused(image, "cannot be decoded")


def test_threads_agree(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{index}.png", np.roll(CAT, index, 0)) for index in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for index, seen in enumerate(pool.map(pixels, paths)):
            np.testing.assert_array_equal(seen, np.roll(CAT, index, 0))


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(CAT[:20, :30]).save(buffer, suffix)
    return buffer.getvalue()


SEEDS = {name: encoded(name) for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(SEEDS)), edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)))
)
def test_damaged_file_is_an_image_or_an_image_error(
    tmp_path: Path, name: str, edits: list[tuple[float, int]]
) -> None:
    content = bytearray(SEEDS[name])
    for place, byte in edits:
        content[int(place * len(content))] = byte
    (tmp_path / "x").write_bytes(content)
    try:
        image = open_image(tmp_path / "x", max_pixels=10_000_000)
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017  damage may or may not be fatal
    else:
        assert image.mode == "RGB"


# ---- JPEGs decoded at a reduced scale --------------------------------------------------------------


def jpeg(size: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(CAT).convert(mode).resize(size).save(file, "JPEG", **options)
    return file.getvalue()


def halve(width: int, height: int) -> int:
    return 2


def test_a_jpeg_may_come_at_half_its_size() -> None:
    for mode in ("RGB", "L"):
        image, own = open_reduced(jpeg((64, 48), mode, progressive=True), halve)
        assert (image.size, own, image.mode) == ((32, 24), (64, 48), "RGB")


@pytest.mark.parametrize("content", [jpeg((63, 48)), jpeg((64, 47)), jpeg((64, 48), "CMYK")])
def test_what_would_be_stretched_or_miscoloured_comes_whole(content: bytes) -> None:
    image, own = open_reduced(content, halve)
    assert image.size == own
    assert image.tobytes() == open_image(content).tobytes()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_jpeg_is_asked_for_as_it_stands(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    asked: list[tuple[int, int]] = []

    def scale_for(width: int, height: int) -> int:
        asked.append((width, height))
        return 2

    image, own = open_reduced(jpeg((64, 48), exif=exif), scale_for)
    upright = (64, 48) if orientation in (1, 3) else (48, 64)
    assert asked == [upright]
    assert own == upright
    assert image.size == (upright[0] // 2, upright[1] // 2)


def test_a_callers_image_is_never_reduced() -> None:
    theirs = Image.open(io.BytesIO(jpeg((64, 48))))
    image, own = open_reduced(theirs, halve)
    assert image.size == own == theirs.size == (64, 48)


@pytest.mark.parametrize("size", [1 << 16, (1 << 16) - 1, (1 << 16) + 1, 200_000])
def test_a_file_of_any_size_has_the_pixels_of_its_bytes(tmp_path: Path, size: int) -> None:
    """Small files are read at once, others as their decoder asks."""
    data = jpeg((64, 48)).ljust(size, b"\0")
    (tmp_path / "a.jpg").write_bytes(data)
    assert open_image(tmp_path / "a.jpg").tobytes() == open_image(data).tobytes()
