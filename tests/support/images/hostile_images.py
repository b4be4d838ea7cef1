"""Small image files that cost a decoder much: structure floods, bombs, and lies about sizes."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def many_scans(count: int, side: int = 64, mode: str = "L") -> bytes:
    """A progressive JPEG with `count` more scans than its encoder wrote."""
    data = encode(Image.new(mode, (side, side), 127), "JPEG", progressive=True, quality=5)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + b"\xff\xd9"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(extra: bytes, side: int = 8) -> bytes:
    """A PNG with chunks behind its header."""
    data = encode(Image.new("RGB", (side, side)), "PNG")
    return data[:33] + extra + data[33:]


def png_bomb(side: int, mode: str = "RGBA") -> bytes:
    """A PNG of one colour: a few kilobytes for any size."""
    return encode(Image.new(mode, (side, side)), "PNG")


def tiff(entries: list[tuple[int, int, int, int]], tail: bytes = b"") -> bytes:
    """A little-endian TIFF with these tags: tag, type, count, value."""
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return head + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4) + tail


def hostile_files() -> dict[str, bytes]:
    """Files that must be refused by their structure alone, and some that Pillow decodes in Python."""
    jpeg = encode(Image.new("L", (8, 8)), "JPEG")
    gif = encode(Image.new("L", (8, 8)), "GIF")
    palette = 13 + (3 << (gif[10] & 7) + 1)
    rle = bytearray(encode(Image.new("L", (8, 8)), "BMP"))
    rle[30:34] = struct.pack("<I", 1)
    strips = [(256, 4, 1, 8), (257, 4, 1, 8), (273, 4, 200_000, 8), (279, 4, 200_000, 8)]
    boxes = struct.pack(">I4s", 8, b"free") * 10_000
    return {
        "JPEG scans": many_scans(200),
        "JPEG segments": jpeg[:2] + b"\xff\xe5\0\x02" * 10_000 + jpeg[2:],
        "JPEG fill": jpeg[:2] + b"\xff" * 1_000_000 + jpeg[2:],
        "JPEG junk": jpeg[:2] + b"\0" * 1_000_000 + jpeg[2:],
        "JPEG restarts outside a scan": jpeg[:2] + b"\xff\xd0" * 1_000_000 + jpeg[2:],
        "PNG chunks": png_with(chunk(b"tEXt", b"a\0b") * 5000),
        "PNG data chunks": png_with(chunk(b"IDAT", b"") * 100_000),
        "APNG frames": png_with(chunk(b"fcTL", bytes(26)) * 70_000),
        "GIF comments": gif[:palette] + b"\x21\xfe" + b"\x01a" * 1_000_000 + b"\0" + gif[palette:],
        "GIF extensions": gif[:palette] + b"\x21\xf9\x04\0\0\0\0\0" * 20_000 + gif[palette:],
        "GIF junk": gif[:palette] + b"\x01" * 1_000_000,
        "BMP run-length": bytes(rle),
        "PPM text": b"P3\n2 2\n255\n" + b"1 " * 12,
        "PGM maximum": b"P5\n2 2\n100\n" + bytes(4),
        "PPM comment": b"P6\n#" + b"x" * 1_000_000 + b"\n2 2\n255\n" + bytes(12),
        "TIFF tags": tiff([(300 + n, 4, 1, 1) for n in range(2000)]),
        "TIFF overlapping tags": tiff([(300 + n, 1, 1_000_000, 8) for n in range(20)], bytes(1_000_000)),
        "TIFF strips": tiff(strips, bytes(2_000_000)),
        "JPEG 2000 boxes": b"\0\0\0\x0cjP  \r\n\x87\n" + boxes + b"\xff\x4f\xff\x51" + bytes(60),
        "JPEG 2000 segments": b"\xff\x4f\xff\x51\0\x29" + bytes(39) + b"\xff\x64\0\x02" * 10_000,
        "AVIF boxes": struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"avif", 0, b"avif", b"mif1") + boxes,
        "XPM": b"/* XPM */ static char *x[] = {",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "DDS": b"DDS " + bytes(200),
        "FITS": b"SIMPLE  =                    T" + bytes(2850),
        "QOI": b"qoif" + struct.pack(">IIBB", 8, 8, 3, 0) + bytes(20),
        "ICO": b"\0\0\1\0" + bytes(30),
        "nothing": b"",
    }
