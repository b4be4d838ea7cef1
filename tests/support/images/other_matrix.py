"""PNG, BMP, PPM, GIF, JPEG and other files, and the pixels that they must give."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from tests.support.images.matrix_case import HEIGHT, WIDTH, Case, Pixels, levels, over_white, ramps

PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png_cases() -> Iterator[Case]:
    """Colour type, depth, tRNS, interlacing, and the chunks of colour spaces, which are ignored."""
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (256, 3))
    for colour, interlaced, keyed in product(depths, (False, True), (False, True)):
        if keyed and colour in (4, 6):
            continue
        for depth, space in product(depths[colour], ("", "gAMA", "sRGB")):
            count = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
            samples = levels(ramps()[..., :count], depth)
            white = (1 << depth) - 1
            extra, key = b"", samples[5, 7].copy()
            if colour == 3:
                extra = chunk(b"PLTE", palette[: white + 1].astype(np.uint8).tobytes())
                opacity = rng.integers(0, 256, white + 1) if keyed else np.full(white + 1, 255)
                extra += chunk(b"tRNS", opacity.astype(np.uint8).tobytes()) if keyed else b""
                rgb, alpha = palette[samples[..., 0]] / 255, opacity[samples] / 255
            else:
                extra = chunk(b"tRNS", key.astype(">u2").tobytes()) if keyed else b""
                shares = samples / white
                rgb = shares[..., :3] if colour in (2, 6) else np.repeat(shares[..., :1], 3, 2)
                alpha = shares[..., -1:] if colour in (4, 6) else np.ones((HEIGHT, WIDTH, 1))
                if keyed:
                    alpha = 1.0 - (samples == key).all(axis=-1, keepdims=True)
            spaces = {
                "gAMA": chunk(b"gAMA", struct.pack(">I", 100000)),
                "sRGB": chunk(b"sRGB", b"\0"),
                "": b"",
            }
            yield Case(
                f"png: colour {colour}, {depth} bits, tRNS {keyed}, interlaced {interlaced}, {space}",
                png(samples, colour, depth, spaces[space] + extra, interlaced=interlaced),
                255 * over_white(rgb, alpha),
            )


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(samples: Pixels, colour: int, depth: int, extra: bytes, *, interlaced: bool) -> bytes:
    """Rows filtered with the five filters in turn."""
    parts = [samples[y::dy, x::dx] for x, y, dx, dy in PASSES] if interlaced else [samples]
    lines = b"".join(_filtered(_packed(part, depth), samples.shape[2] * depth) for part in parts if part.size)
    height, width = samples.shape[:2]
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, int(interlaced))
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _packed(samples: Pixels, depth: int) -> Pixels:
    """Bytes [H,n]."""
    rows = samples.reshape(samples.shape[0], -1)
    if depth == 16:
        return np.frombuffer(rows.astype(">u2").tobytes(), np.uint8).reshape(len(rows), -1)
    bits = rows[..., None] >> np.arange(depth - 1, -1, -1) & 1
    return np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1)


def _filtered(rows: Pixels, bits: int) -> bytes:
    step, out = max(1, bits // 8), b""
    above = np.zeros_like(rows[0], np.int64)
    for number, raw in enumerate(rows.astype(np.int64)):
        left = (
            np.concatenate([np.zeros(step, np.int64), raw[:-step]]) if len(raw) > step else np.zeros_like(raw)
        )
        corner = (
            np.concatenate([np.zeros(step, np.int64), above[:-step]])
            if len(raw) > step
            else np.zeros_like(raw)
        )
        guess = left + above - corner
        near = np.abs(np.stack([left, above, corner]) - guess).argmin(axis=0)
        paeth = np.choose(near, [left, above, corner])
        ways = (0, left, above, (left + above) // 2, paeth)
        out += bytes([number % 5]) + ((raw - ways[number % 5]) & 255).astype(np.uint8).tobytes()
        above = raw
    return out


def bmp_cases() -> Iterator[Case]:
    """Depths, masks, headers, both orders of rows, run lengths; alpha counts only where a mask says so."""
    rgb = levels(ramps()[..., :3], 8)
    grey = levels(ramps()[..., :1], 8)[..., 0]
    rng = np.random.default_rng(0)
    for top_down in (False, True):
        for bits in (1, 4, 8):
            palette = rng.integers(0, 256, (1 << bits, 3))
            index = grey >> (8 - bits)
            packed = _bmp_rows(_packed(index[..., None], bits))
            yield Case(
                f"bmp: {bits} bits, {top_down}", bmp(bits, 0, packed, palette, top_down), palette[index] + 0.0
            )
        yield Case(
            f"bmp: 24 bits, {top_down}",
            bmp(24, 0, _bmp_rows(rgb[..., ::-1].reshape(HEIGHT, -1)), None, top_down),
            rgb + 0.0,
        )
        for name, masks, bits in (
            ("555", None, 16),
            ("565", (0xF800, 0x07E0, 0x001F), 16),
            ("x888", None, 32),
            ("bgra", (0xFF0000, 0xFF00, 0xFF, 0xFF000000), 32),
            ("rgba", (0xFF, 0xFF00, 0xFF0000, 0xFF000000), 32),
            ("bgrx", (0xFF0000, 0xFF00, 0xFF), 32),
        ):  # fmt: skip
            used = masks or ((0x7C00, 0x03E0, 0x001F) if bits == 16 else (0xFF0000, 0xFF00, 0xFF))
            shares = ramps()[..., [0, 1, 2, 3]]
            values, wanted = np.zeros((HEIGHT, WIDTH), np.int64), []
            for index, mask in enumerate(used):
                low = (mask & -mask).bit_length() - 1
                depth = (mask >> low).bit_length()
                sample = levels(shares[..., index], depth)
                values |= sample << low
                wanted.append(sample / ((1 << depth) - 1))
            rows = _bmp_rows(
                np.frombuffer(values.astype(f"<u{bits // 8}").tobytes(), np.uint8).reshape(HEIGHT, -1)
            )
            colours = np.stack(wanted[:3], axis=-1)
            final = over_white(colours, wanted[3][..., None]) if len(wanted) == 4 else colours
            yield Case(
                f"bmp: {name}, {top_down}",
                bmp(bits, 3 if masks else 0, rows, None, top_down, masks),
                255 * final,
            )
    palette = rng.integers(0, 256, (256, 3))
    yield Case("bmp: rle8", bmp(8, 1, _rle8(grey), palette, False), palette[grey] + 0.0)


def _bmp_rows(rows: Pixels) -> list[bytes]:
    return [row.astype(np.uint8).tobytes() + bytes(-len(row) % 4) for row in rows]


def bmp(
    bits: int, compression: int, rows: list[bytes] | bytes, palette: Any, top_down: bool, masks: Any = None
) -> bytes:
    data = rows if isinstance(rows, bytes) else b"".join(rows if top_down else rows[::-1])
    table = b"" if palette is None else b"".join(bytes([b, g, r, 0]) for r, g, b in palette.tolist())
    size = 108 if masks and len(masks) == 4 else 40
    height = -HEIGHT if top_down else HEIGHT
    header = struct.pack(
        "<IiiHHIIiiII", size, WIDTH, height, 1, bits, compression, len(data), 2835, 2835, len(table) // 4, 0
    )
    if masks:
        header += struct.pack(f"<{len(masks)}I", *masks)
    header = header.ljust(size, b"\0")
    start = 14 + len(header) + len(table)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + table + data


def _rle8(index: Pixels) -> bytes:
    out = b""
    for row in index[::-1].tolist():
        at = 0
        while at < len(row):
            run = 1
            while at + run < len(row) and row[at + run] == row[at]:
                run += 1
            out += bytes([run, row[at]])
            at += run
        out += b"\0\0"
    return out + b"\0\1"


def ppm_cases() -> Iterator[Case]:
    """Binary and text, and every kind of highest value."""
    for colours, most, text in product((1, 3), (1, 7, 100, 255, 256, 1023, 4095, 65535), (False, True)):
        samples = np.rint(ramps()[..., :colours] * most).astype(np.int64)
        magic = {(1, False): 5, (3, False): 6, (1, True): 2, (3, True): 3}[colours, text]
        head = f"P{magic}\n# a comment\n{WIDTH} {HEIGHT}\n{most}\n".encode()
        if text:
            body = " ".join(map(str, samples.ravel())).encode() + b"\n"
        else:
            body = samples.astype(">u2" if most > 255 else "u1").tobytes()
        yield Case(
            f"ppm: P{magic}, {most}", head + body, np.broadcast_to(255 * samples / most, (HEIGHT, WIDTH, 3))
        )
    bits = (ramps()[..., :1] > 0.5).astype(np.int64)
    wanted = np.broadcast_to(255.0 * (1 - bits), (HEIGHT, WIDTH, 3))
    yield Case("ppm: P4", f"P4 {WIDTH} {HEIGHT}\n".encode() + _packed(bits, 1).tobytes(), wanted)
    yield Case(
        "ppm: P1", f"P1 {WIDTH} {HEIGHT}\n".encode() + " ".join(map(str, bits.ravel())).encode(), wanted
    )
    yield Case(
        "ppm: floats",
        f"PF\n{WIDTH} {HEIGHT}\n-1.0\n".encode() + ramps()[..., :3].astype("<f4").tobytes(),
        None,
    )
    yield Case(
        "ppm: grey floats",
        f"Pf\n{WIDTH} {HEIGHT}\n-1.0\n".encode() + ramps()[..., 0].astype("<f4").tobytes(),
        None,
    )


def pillow_cases() -> Iterator[Case]:
    """What Pillow writes losslessly and other programs too: GIF, WebP, JPEG 2000, TIFF's own codecs."""
    rgb, alpha = levels(ramps()[..., :3], 8), levels(ramps()[..., 3:4], 8)
    colour = Image.fromarray(rgb.astype(np.uint8))
    clear = Image.fromarray(np.dstack([rgb, alpha]).astype(np.uint8))
    grey = Image.fromarray(rgb[..., 0].astype(np.uint8))
    deep = levels(ramps()[..., 0], 16)
    over = 255 * over_white(rgb / 255, alpha / 255)
    greys = np.repeat(rgb[..., :1], 3, axis=2) + 0.0
    yield Case("webp: lossless", saved(colour, "WEBP", lossless=True), rgb + 0.0)
    yield Case("webp: lossless, alpha", saved(clear, "WEBP", lossless=True, exact=True), over)
    for name, image, wanted in (("rgb", colour, rgb + 0.0), ("rgba", clear, over), ("grey", grey, greys)):
        yield Case(f"jpeg 2000: {name}", saved(image, "JPEG2000", irreversible=False), wanted)
    wide = Image.fromarray(deep.astype(np.uint16))
    yield Case("jpeg 2000: 16 bits", saved(wide, "JPEG2000"), np.repeat(deep[..., None], 3, axis=2) / 257)
    data = bytearray(saved(wide, "JPEG2000"))
    data[data.index(b"\xff\x4f\xff\x51") + 42] |= 0x80
    yield Case("jpeg 2000: signed", bytes(data), None)
    indexed = colour.quantize(200)
    table = np.array(indexed.getpalette()).reshape(-1, 3)
    index = np.asarray(indexed)
    yield Case("gif", saved(indexed, "GIF"), table[index] + 0.0)
    yield Case("gif: interlaced", saved(indexed, "GIF", interlace=1), table[index] + 0.0)
    keyed = np.where((index == 7)[..., None], 255, table[index]) + 0.0
    yield Case("gif: transparent", saved(indexed, "GIF", transparency=7), keyed)
    later = saved(indexed, "GIF", save_all=True, append_images=[colour.rotate(180).quantize(200)])
    yield Case("gif: animated", later, table[index] + 0.0)
    black = Image.fromarray(rgb[..., 0] > 127)
    bits = np.repeat(255.0 * (rgb[..., :1] > 127), 3, axis=2)
    for codec in ("group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw"):
        yield Case(f"tiff: 1 bit, {codec}", saved(black, "TIFF", compression=codec), bits)
    for codec in ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "zstd", "lzma"):
        yield Case(f"tiff: Pillow's, {codec}", saved(colour, "TIFF", compression=codec), rgb + 0.0)
    yield Case("avif: lossless", saved(grey, "AVIF", quality=100, subsampling="4:4:4"), greys, 2)


def saved(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def jpeg_cases() -> Iterator[Case]:
    """Colour spaces and markers. The numbers are those of flat images, which a JPEG of quality 100 keeps."""
    colours = [(0, 0, 0), (255, 255, 255), (200, 30, 60), (20, 180, 90), (40, 60, 220), (128, 128, 128)]
    for rgb in colours:
        flat = Image.new("RGB", (WIDTH, HEIGHT), rgb)
        wanted = np.broadcast_to(np.array(rgb, float), (HEIGHT, WIDTH, 3))
        for progressive, subsampling in product((False, True), (0, 1, 2)):
            options = {"progressive": progressive, "subsampling": subsampling, "quality": 100}
            yield Case(f"jpeg: YCbCr {rgb} {options}", saved(flat, "JPEG", **options), wanted, 2)
        yield Case(f"jpeg: RGB {rgb}", saved(flat, "JPEG", keep_rgb=True, quality=100), wanted)
        grey = flat.convert("L")
        value = np.full((HEIGHT, WIDTH, 3), float(grey.getpixel((0, 0))))  # type: ignore[arg-type]
        yield Case(f"jpeg: grey {rgb}", saved(grey, "JPEG", quality=100), value)
        cmyk = flat.convert("CMYK")
        ink = np.array(cmyk.getpixel((0, 0)), float) / 255
        seen = np.broadcast_to(255 * (1 - ink[:3]) * (1 - ink[3]), (HEIGHT, WIDTH, 3))
        data = saved(cmyk, "JPEG", quality=100)  # Adobe's marker, inverted, as Photoshop writes it
        yield Case(f"jpeg: CMYK {rgb}", data, seen)
        yield Case(f"jpeg: YCCK {rgb}", *_as_ycck(data, ink))
        yield Case(f"jpeg: 12 bits {rgb}", _with_precision(saved(flat, "JPEG"), 12), None)


def _as_ycck(data: bytes, ink: Pixels) -> tuple[bytes, Pixels]:
    """The same samples, inverted CMYK, but said to be YCCK: the first three are then Y, Cb and Cr."""
    at = data.index(b"Adobe") + 11
    y, cb, cr, k = 255 * (1 - ink)
    cyan = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    shares = np.clip(np.array(cyan), 0, 255) / 255
    wanted = 255 * (1 - shares) * (k / 255)
    return data[:at] + b"\x02" + data[at + 1 :], np.broadcast_to(wanted, (HEIGHT, WIDTH, 3))


def _with_precision(data: bytes, bits: int) -> bytes:
    at = data.index(b"\xff\xc0")
    return data[: at + 4] + bytes([bits]) + data[at + 5 :]
