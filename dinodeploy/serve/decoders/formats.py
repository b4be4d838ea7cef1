"""Image formats that the service accepts, and limits on their structure, before Pillow sees a file.

A small file can make a decoder work for minutes: a progressive JPEG with hundreds of scans, a PNG of a
million empty chunks, a TIFF whose tags all point at the same megabytes. `inspect_image` walks the structure
only, with limits, and estimates how long decoding takes.

Sources: ITU-T T.81 B (JPEG), https://www.w3.org/TR/png-3/ (PNG), https://www.rfc-editor.org/rfc/rfc9649
(WebP), https://www.w3.org/Graphics/GIF/spec-gif89a.txt (GIF), TIFF 6.0 section 2, ISO/IEC 15444-1 A and I
(JPEG 2000), ISO/IEC 14496-12 4.2 (boxes of AVIF and HEIF).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dinodeploy.errors import ImageError

Size = tuple[int, int]


@dataclass(frozen=True)
class Inspected:
    """What the structure of a file says. seconds: estimated, to open and decode it on one core."""

    format: str
    pixels: int
    seconds: float


BYTES_PER_SECOND = 100e6  # entropy decoding and inflating
BASE_SECONDS = 0.002

# Seconds per million pixels on one core of a server, rounded up (measured with Pillow 13, 12 megapixels).
_PER_MEGAPIXEL = {
    "JPEG": 0.02,
    "PNG": 0.04,
    "WEBP": 0.05,
    "GIF": 0.02,
    "BMP": 0.02,
    "TIFF": 0.06,
    "PPM": 0.01,
    "JPEG2000": 0.5,
    "AVIF": 0.15,
    "HEIF": 0.2,
}
ACCEPTED = tuple(_PER_MEGAPIXEL)
PER_SCAN = 0.002  # seconds per million pixels for each scan of a JPEG

MAX_SCANS = 100  # of a JPEG; encoders write 1 to 20
MAX_SEGMENTS = 4096  # markers of a JPEG outside its scans, boxes of JPEG 2000, AVIF and HEIF
MAX_FILL = 4096  # bytes between the markers of a JPEG
MAX_CHUNKS = 1000  # of a PNG without pixel data
MAX_DATA_CHUNKS = 65_536  # of a PNG with pixel data
MAX_BLOCKS = 10_000  # sub-blocks of a GIF in front of its first frame
MAX_TAGS = 512  # of a TIFF
MAX_STRIPS = 100_000  # strips or tiles of a TIFF
MAX_HEADER = 4096  # bytes of a PPM header with its comments


def seconds_by_size(length: int) -> float:
    """What is known of the cost before inspection."""
    return BASE_SECONDS + length / BYTES_PER_SECOND


def inspect_image(data: bytes, accepted: tuple[str, ...] = ACCEPTED) -> Inspected:
    """Walk the structure of an image file. Raises ImageError: unknown, not accepted, or past a limit."""
    name = format_of(data)
    if name is None or name not in accepted:
        what = "not an image" if name is None else f"{name} is not accepted here"
        raise ImageError(f"{what}, wanted one of {', '.join(accepted)}")
    try:
        (width, height), scans = _WALKS[name](data)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise ImageError(f"cannot be decoded: a broken {name} header") from error
    pixels = width * height
    megapixels = pixels / 1e6
    seconds = seconds_by_size(len(data)) + megapixels * (_PER_MEGAPIXEL[name] + PER_SCAN * scans)
    return Inspected(name, pixels, seconds)


def format_of(data: bytes) -> str | None:
    """The format by the first bytes; every file that Pillow's opener of it accepts is recognised."""
    if not data:
        raise ImageError("the file is empty")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brands = {data[8:12], *(data[start : start + 4] for start in range(16, 64, 4))}
        return "AVIF" if brands & {b"avif", b"avis"} else "HEIF"
    return next((name for start, name in _STARTS.items() if data.startswith(start)), None)


_STARTS = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    **dict.fromkeys((b"MM\0*", b"II*\0", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0"), "TIFF"),
    **dict.fromkeys((b"P%c" % digit for digit in b"0123456fy7"), "PPM"),
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
}

_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the next marker: no stuffed byte, no restart, no fill
_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xD9), 0xFF))  # stuffing, TEM, restarts, SOI, fill
_FRAMES = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))


def _walk_jpeg(data: bytes) -> tuple[Size, int]:
    size, scans, segments, fill, at = (0, 0), 0, 0, 0, 2
    while at + 4 <= len(data) and data[at : at + 2] != b"\xff\xd9":
        marker = data[at + 1]
        if data[at] != 0xFF or marker in _WITHOUT_LENGTH:
            fill, at = fill + 1, at + 1
            if fill > MAX_FILL:
                raise ImageError(f"a JPEG with more than {MAX_FILL} bytes between its segments")
            continue
        segments += 1
        if segments > MAX_SEGMENTS:
            raise ImageError(f"a JPEG with more than {MAX_SEGMENTS} segments")
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _FRAMES and size == (0, 0):
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = (width, height)
        at += 2 + max(2, length)
        if marker == 0xDA:
            scans += 1
            if scans > MAX_SCANS:
                raise ImageError(f"a JPEG with more than {MAX_SCANS} scans; save it as a baseline JPEG")
            found = _SCAN_END.search(data, at)
            at = found.start() if found else len(data)
    return size, scans


def _walk_png(data: bytes) -> tuple[Size, int]:
    size = struct.unpack_from(">II", data, 16)
    chunks = data_chunks = 0
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in (b"IDAT", b"fdAT", b"fcTL"):
            data_chunks += 1
        else:
            chunks += 1
        if chunks > MAX_CHUNKS or data_chunks > MAX_DATA_CHUNKS:
            raise ImageError(
                f"a PNG with more than {MAX_CHUNKS} chunks, or {MAX_DATA_CHUNKS} with pixels; save it again"
            )
        if kind == b"IEND":
            break
        at += 12 + length
    return (size[0], size[1]), 0


def _walk_webp(data: bytes) -> tuple[Size, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return (_u24(data, 24) + 1, _u24(data, 27) + 1), 0
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), 0
    width, height = struct.unpack_from("<HH", data, 26)
    return (width & 0x3FFF, height & 0x3FFF), 0


def _u24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def _walk_gif(data: bytes) -> tuple[Size, int]:
    """Up to the first frame. Frames may be larger than the screen."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    blocks = 0
    while at < len(data):
        blocks += 1
        if blocks > MAX_BLOCKS:
            raise ImageError(f"a GIF with more than {MAX_BLOCKS} blocks before its first frame")
        if data[at] == 0x2C:
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
            return (max(width, left + frame_width), max(height, top + frame_height)), 0
        if data[at] == 0x3B:
            break
        if data[at] != 0x21:
            at += 1  # Pillow skips what it does not know byte by byte
            continue
        at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
            blocks += 1
            if blocks > MAX_BLOCKS:
                break
        at += 1
    return (width, height), 0


def _walk_bmp(data: bytes) -> tuple[Size, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return (width, height), 0
    width, height = struct.unpack_from("<ii", data, 18)
    return (abs(width), abs(height)), 0


_WORD = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*([0-9]+)")


def _walk_ppm(data: bytes) -> tuple[Size, int]:
    head, at = data[:MAX_HEADER], 2
    words: list[int] = []
    for _ in range(2):
        found = _WORD.match(head, at)
        if found is None:
            raise ImageError(f"a PPM without its numbers in the first {MAX_HEADER} bytes")
        words.append(int(found.group(1)[:20]))
        at = found.end()
    return (words[0], words[1]), 0


_BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_WIDTH, _HEIGHT, _COMPRESSION, _STRIPS, _TILES = 256, 257, 259, 273, 324
_JPEG_IN_TIFF = (6, 7)


def _walk_tiff(data: bytes) -> tuple[Size, int]:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (tags,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    if tags > MAX_TAGS:
        raise ImageError(f"a TIFF with {tags} tags, wanted at most {MAX_TAGS}")
    at += 8 if big else 2
    entry = struct.Struct(order + ("HHQ" if big else "HHI"))
    step, total = (20, 0) if big else (12, 0)
    first: dict[int, int] = {}
    strips = 1
    for number in range(tags):
        start = at + number * step
        tag, kind, count = entry.unpack_from(data, start)
        total += _BYTES_OF_TYPE.get(kind, 1) * count
        if tag in (_STRIPS, _TILES):
            strips = max(strips, count)
        elif tag in (_WIDTH, _HEIGHT, _COMPRESSION):
            first[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, start + entry.size)[0]
    if total > len(data):
        raise ImageError("a TIFF whose tags are larger than the file")
    if strips > MAX_STRIPS:
        raise ImageError(f"a TIFF with {strips} strips or tiles, wanted at most {MAX_STRIPS}")
    scans = 0
    if first.get(_COMPRESSION) in _JPEG_IN_TIFF:
        scans = data.count(b"\xff\xda")
        if scans > 4 * strips + MAX_SCANS:
            raise ImageError(f"a TIFF of {strips} strips with {scans} JPEG scans; save it as PNG")
        scans = max(1, scans // strips)
    return (first.get(_WIDTH, 0), first.get(_HEIGHT, 0)), scans


def _walk_jpeg2000(data: bytes) -> tuple[Size, int]:
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0:
        raise ImageError("cannot be decoded: a JPEG 2000 without a codestream")
    for _ in _boxes(data[:at]):  # limited
        pass
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    at, segments = at + 2, 0
    while at + 4 <= len(data) and data[at : at + 2] not in (b"\xff\x90", b"\xff\xd9"):
        segments += 1
        if segments > MAX_SEGMENTS:
            raise ImageError(f"a JPEG 2000 with more than {MAX_SEGMENTS} segments")
        at += 2 + max(2, struct.unpack_from(">H", data, at + 2)[0])
    return (max(0, right - left), max(0, bottom - top)), 0


def _walk_boxes(data: bytes) -> tuple[Size, int]:
    """AVIF and HEIF: the largest image by its `ispe` properties."""
    for _ in _boxes(data):  # limited
        pass
    largest, count, at = (0, 0), 0, data.find(b"ispe")
    while at >= 0 and at + 16 <= len(data):
        count += 1
        if count > MAX_SEGMENTS:
            raise ImageError(f"an image with more than {MAX_SEGMENTS} sizes")
        width, height = struct.unpack_from(">II", data, at + 8)
        largest = max(largest, (width, height), key=lambda size: size[0] * size[1])
        at = data.find(b"ispe", at + 4)
    return largest, 0


def _boxes(data: bytes) -> Iterator[bytes]:
    at = count = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if length == 1 and at + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, at + 8)
        count += 1
        if count > MAX_SEGMENTS:
            raise ImageError(f"an image with more than {MAX_SEGMENTS} boxes")
        yield kind
        if length < 8:  # 0: up to the end of the file
            return
        at += length


_WALKS: dict[str, Callable[[bytes], tuple[Size, int]]] = {
    "JPEG": _walk_jpeg,
    "PNG": _walk_png,
    "WEBP": _walk_webp,
    "GIF": _walk_gif,
    "BMP": _walk_bmp,
    "TIFF": _walk_tiff,
    "PPM": _walk_ppm,
    "JPEG2000": _walk_jpeg2000,
    "AVIF": _walk_boxes,
    "HEIF": _walk_boxes,
}
