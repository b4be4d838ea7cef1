"""TIFFs of every layout, with the pixels that TIFF 6.0 says they hold."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, product

import numpy as np

from tests.support.images.matrix_case import Case, Pixels, levels, over_white, ramps
from tests.support.images.tiff_writer import COMPRESSIONS, Layout, write_tiff

COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3, 9: 3}  # samples of each photometric
_LINEAR = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)


def tiff_cases() -> Iterator[Case]:
    """Every combination that TIFF allows, and some that it does not."""
    for layout in _layouts():
        samples = _samples(layout)
        yield Case(f"tiff: {layout}", write_tiff(samples, layout), _wanted(samples, layout))


def _layouts() -> Iterator[Layout]:
    kinds = chain(
        product((0, 1), (1, 2, 4, 8, 12, 16, 32), ("unsigned",)),
        product((0, 1), (8, 16, 32), ("signed",)),
        product((0, 1, 2), (16, 32, 64), ("float",)),
        product((2, 5), (4, 8, 12, 16, 32), ("unsigned",)),
        product((3,), (1, 2, 4, 8, 16), ("unsigned",)),
        product((6, 8, 9), (8, 16), ("unsigned",)),
        product((4,), (1,), ("unsigned",)),
    )
    rng = np.random.default_rng(0)
    for photometric, bits, kind in kinds:
        more = {320: rng.integers(0, 65536, 3 << bits).tolist()} if photometric == 3 else {}
        more |= {530: [1, 1]} if photometric == 6 else {}
        deep = photometric in (1, 2, 5) and bits in (8, 16)
        extras = [(), (0,), (1,), (2,), (0, 2), (2, 0)] if deep else [()]
        ways = product(
            (False, True), COMPRESSIONS, (False, True), (None, (16, 32)), (False, True), (False, True), (1, 2)
        )
        for extra, (planar, compression, predictor, tile, big_endian, bigtiff, order) in product(
            extras, ways
        ):
            layout = Layout(
                photometric, bits, kind, planar, compression, predictor, tile, 8, big_endian, bigtiff, order,
                extra, more,
            )  # fmt: skip
            if _is_possible(layout):
                yield layout


def _is_possible(layout: Layout) -> bool:
    if layout.planar and COLOURS[layout.photometric] == 1 and not layout.extra:
        return False
    if layout.predictor and (layout.compression in ("none", "packbits") or layout.bits not in (8, 16, 32)):
        return False
    if layout.compression == "old deflate" and (layout.tile or layout.bigtiff):
        return False
    if layout.fill_order == 2 and (
        layout.bigtiff or layout.tile or layout.compression not in ("none", "packbits", "lzw")
    ):
        return False
    return not layout.bigtiff or layout.compression in ("none", "deflate")


def _samples(layout: Layout) -> Pixels:
    count = COLOURS[layout.photometric]
    shares = ramps()[..., : count + len(layout.extra)].copy()
    if 1 in layout.extra:
        shares[..., :count] *= shares[..., count + layout.extra.index(1), None]
    if layout.kind == "float":
        return shares
    if layout.photometric in (8, 9):
        shares[..., 1:3] = shares[..., 1:3] * 0.3 + 0.35
        if layout.photometric == 8:  # a* and b* are signed
            shares[..., 1:3] = (shares[..., 1:3] + 0.5) % 1
    return levels(shares, layout.bits)


def _wanted(samples: Pixels, layout: Layout) -> Pixels | None:
    """None for what has no known white, and for what no rule of TIFF explains."""
    if layout.kind != "unsigned" or layout.bits > 16 or layout.photometric == 4:
        return None
    if layout.photometric == 6 and layout.bits != 8:
        return None
    count, white = COLOURS[layout.photometric], (1 << layout.bits) - 1
    if count == 1 and len(layout.extra) > 1:
        return None
    if layout.photometric == 5 and set(layout.extra) & {1, 2}:
        return None
    rgb = _colours(samples, layout)
    for index, kind in enumerate(layout.extra):
        if kind in (1, 2):
            rgb = over_white(rgb, samples[..., count + index, None] / white, associated=kind == 1)
            break
    return 255 * np.clip(rgb, 0, 1)


def _colours(samples: Pixels, layout: Layout) -> Pixels:
    shares = samples[..., : COLOURS[layout.photometric]] / ((1 << layout.bits) - 1)
    match layout.photometric:
        case 0:
            return np.repeat(1 - shares, 3, axis=2)
        case 1:
            return np.repeat(shares, 3, axis=2)
        case 3:
            return np.array(layout.more[320]).reshape(3, -1).T[samples[..., 0]] / 65535
        case 5:
            return (1 - shares[..., :3]) * (1 - shares[..., 3:])
        case 6:
            y, cb, cr = (255 * shares[..., index] for index in range(3))
            red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
            green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
            return np.clip(np.stack([red, green, blue], axis=-1) / 255, 0, 1)
        case 8 | 9:
            return _from_lab(samples, layout)
    return shares


def _from_lab(samples: Pixels, layout: Layout) -> Pixels:
    half, unit = 1 << (layout.bits - 1), 1 << (layout.bits - 8)
    ab = samples[..., 1:3].astype(float)
    ab = np.where(ab >= half, ab - 2 * half, ab) if layout.photometric == 8 else ab - half
    f = (samples[..., 0] / (2 * half - 1) * 100 + 16) / 116
    xyz = np.stack([f + ab[..., 0] / unit / 500, f, f - ab[..., 1] / unit / 200], axis=-1)
    xyz = np.where(xyz > 6 / 29, xyz**3, 3 * (6 / 29) ** 2 * (xyz - 4 / 29)) * [0.96422, 1, 0.82521]
    linear = np.clip(xyz @ _LINEAR.T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
