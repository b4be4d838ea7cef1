"""Write any TIFF from its samples, byte by byte: what a reader must get is known without another reader.

Source: TIFF 6.0 (https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf) and BigTIFF.
Shapes: H, W pixels, S samples per pixel.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Samples = np.ndarray[Any, Any]
SHORT, LONG, LONG8 = 3, 4, 16
NAMES = {
    0: "miniswhite", 1: "minisblack", 2: "rgb", 3: "palette", 4: "mask", 5: "separated", 6: "ycbcr",
    8: "cielab", 9: "icclab", 32803: "cfa", 34892: "linear raw",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How samples are laid out. kind: unsigned, signed or float. rows: per strip; tile: (H, W) or None."""

    photometric: int
    bits: int
    kind: str = "unsigned"
    planar: bool = False
    compression: str = "none"
    predictor: bool = False
    tile: tuple[int, int] | None = None
    rows: int = 8
    big_endian: bool = False
    bigtiff: bool = False
    fill_order: int = 1
    extra: tuple[int, ...] = ()  # 0 unspecified, 1 associated, 2 unassociated
    more: dict[int, Sequence[int]] = field(default_factory=dict)  # tags that are added, of type SHORT

    def __str__(self) -> str:
        words = [NAMES[self.photometric], f"{self.bits} bits"]
        words += [self.kind] * (self.kind != "unsigned") + ["planes"] * self.planar + [self.compression]
        words += ["predictor"] * self.predictor + ["tiles"] * (self.tile is not None)
        words += ["MM"] * self.big_endian + ["bigtiff"] * self.bigtiff
        words += ["reversed bits"] * (self.fill_order == 2)
        words += [f"extra {self.extra}"] if self.extra else []
        return ", ".join(words + [f"{tag}={tuple(values)}" for tag, values in self.more.items()])


def lzw(data: bytes) -> bytes:
    """TIFF's LZW (section 13): codes of 9 to 12 bits, most significant bit first."""
    out, have, bits = bytearray(), 0, 0

    def put(code: int, width: int) -> None:
        nonlocal have, bits
        have, bits = (have << width) | code, bits + width
        while bits >= 8:
            bits -= 8
            out.append(have >> bits & 255)
        have &= (1 << bits) - 1

    def fresh() -> dict[bytes, int]:
        return {bytes([value]): value for value in range(256)}

    table, width, seen = fresh(), 9, b""
    put(256, 9)
    for value in data:
        longer = seen + bytes([value])
        if longer in table:
            seen = longer
            continue
        put(table[seen], width)
        table[longer] = len(table) + 2
        if len(table) + 2 == (1 << width):
            width += 1
        if len(table) + 2 >= 4094:
            put(256, width)
            table, width = fresh(), 9
        seen = bytes([value])
    if seen:
        put(table[seen], width)
        if len(table) + 3 == (1 << width):
            width += 1
    put(257, width)
    if bits:
        out.append(have << (8 - bits) & 255)
    return bytes(out)


def packbits(data: bytes) -> bytes:
    """PackBits (section 9): literal runs of at most 128 bytes, and runs of one value."""
    out, at = bytearray(), 0
    while at < len(data):
        run = 1
        while at + run < len(data) and run < 128 and data[at + run] == data[at]:
            run += 1
        if run > 1:
            out += bytes([257 - run, data[at]])
            at += run
            continue
        end = at + 1
        while end < len(data) and end - at < 128 and data[end] != data[end - 1]:
            end += 1
        out += bytes([end - at - 1]) + data[at:end]
        at = end
    return bytes(out)


def _zstd(data: bytes) -> bytes:
    import pyarrow

    return pyarrow.Codec("zstd").compress(data, asbytes=True)


COMPRESSIONS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "none": (1, lambda data: data),
    "lzw": (5, lzw),
    "deflate": (8, zlib.compress),
    "old deflate": (32946, zlib.compress),
    "packbits": (32773, packbits),
    "lzma": (34925, lzma.compress),
    "zstd": (50000, _zstd),
}
_FORMATS = {"unsigned": 1, "signed": 2, "float": 3}


def write_tiff(samples: Samples, layout: Layout) -> bytes:
    """The file. samples: [H,W,S], integers below 2^bits, or floats."""
    height, width, count = samples.shape
    order = ">" if layout.big_endian else "<"
    number, compress = COMPRESSIONS[layout.compression]
    rows, columns = layout.tile or (min(layout.rows, height), width)
    pieces = []
    for planes in np.moveaxis(samples, 2, 0)[..., None] if layout.planar else [samples]:
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                piece = planes[top : top + rows, left : left + columns]
                if layout.tile is not None:
                    short = [(0, rows - piece.shape[0]), (0, columns - piece.shape[1]), (0, 0)]
                    piece = np.pad(piece, short)
                packed = compress(_pack(piece, layout, order))
                pieces.append(_reverse(packed) if layout.fill_order == 2 else packed)
    large = LONG8 if layout.bigtiff else LONG
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [layout.bits] * count),
        259: (SHORT, [number]),
        262: (SHORT, [layout.photometric]),
        277: (SHORT, [count]),
        284: (SHORT, [2 if layout.planar else 1]),
        339: (SHORT, [_FORMATS[layout.kind]] * count),
    }
    if layout.fill_order != 1:
        tags[266] = (SHORT, [layout.fill_order])
    if layout.predictor:
        tags[317] = (SHORT, [3 if layout.kind == "float" else 2])
    if layout.extra:
        tags[338] = (SHORT, layout.extra)
    if layout.tile is not None:
        tags |= {322: (LONG, [columns]), 323: (LONG, [rows])}
    else:
        tags[278] = (LONG, [rows])
    tags |= {tag: (SHORT, values) for tag, values in layout.more.items()}
    where, counts = (324, 325) if layout.tile is not None else (273, 279)
    head = 16 if layout.bigtiff else 8
    starts = [head + sum(map(len, pieces[:index])) for index in range(len(pieces))]
    tags |= {where: (large, starts), counts: (large, [len(piece) for piece in pieces])}
    return _assemble(b"".join(pieces), tags, order, layout.bigtiff)


def _pack(piece: Samples, layout: Layout, order: str) -> bytes:
    """Rows of samples as bytes, each row filled up to a whole byte."""
    if layout.kind == "float":
        return piece.astype(f"{order}f{layout.bits // 8}").tobytes()
    values = piece.astype(np.int64)
    if layout.predictor:
        values = np.diff(values, axis=1, prepend=0)
    values &= (1 << layout.bits) - 1
    if layout.bits in (8, 16, 32, 64):
        return values.astype(f"{order}u{layout.bits // 8}").tobytes()
    flat = values.reshape(values.shape[0], -1, 1)
    bits = flat >> np.arange(layout.bits - 1, -1, -1) & 1
    return np.packbits(bits.reshape(values.shape[0], -1).astype(np.uint8), axis=1).tobytes()


def _reverse(data: bytes) -> bytes:
    return np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)), bitorder="little").tobytes()


def _assemble(body: bytes, tags: dict[int, tuple[int, Sequence[int]]], order: str, big: bool) -> bytes:
    letters = {SHORT: "H", LONG: "I", LONG8: "Q"}
    offset, inline, entry = ("Q", 8, "HHQ") if big else ("I", 4, "HHI")
    head = struct.pack(order + "HHH", 43, 8, 0) if big else struct.pack(order + "H", 42)
    start = (16 if big else 8) + len(body)
    start += start % 2
    size = struct.calcsize(order + ("Q" if big else "H")) + len(tags) * (
        struct.calcsize(order + entry) + inline
    )
    extra_at, directory, extra = start + size + inline, b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{letters[kind]}", *values)
        directory += struct.pack(order + entry, tag, kind, len(values))
        if len(data) <= inline:
            directory += data.ljust(inline, b"\0")
        else:
            directory += struct.pack(order + offset, extra_at + len(extra))
            extra += data + bytes(len(data) % 2)
    count = struct.pack(order + ("Q" if big else "H"), len(tags))
    first = b"MM" if order == ">" else b"II"
    header = first + head + struct.pack(order + offset, start)
    return (header + body).ljust(start, b"\0") + count + directory + bytes(inline) + extra
