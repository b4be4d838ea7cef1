"""CPU time per image before the model: decoding, every preset, and how alternatives differ.

    .venv/bin/python benchmarks/pictures.py                     # JPEGs of 1.6 and 12 megapixels
    .venv/bin/python benchmarks/pictures.py --sizes 640x427

Photographs of scikit-image and scikit-learn, enlarged and saved as JPEG (quality 90, 4:2:0), on one thread.
All ways take turns within a round. Times are medians over rounds in CPU time of the thread, which other
load disturbs less than wall-clock time. Each alternative is printed with its difference from ours in grey
levels of the finished image: mean, 99.9th percentile and largest. Enlarged photographs hide what a decoder
leaves out, so reduced decoding is also compared on photographs at their original size. Writes
benchmarks/ledger/pictures_<cpu>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image
from shared import new_record, save

from dinodeploy.bench.record import take_turns
from dinodeploy.images import preprocess
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import PRESETS, Preprocess
from tests.support.images.photographs import IMAGENET_MEAN, IMAGENET_STD, PHOTOGRAPHS, photograph

PACKAGES = ("pillow", "numpy", "simplejpeg")
ENLARGED = ("china", "flower", "retina")
SIZES = ("1536x1024", "4000x3000")
SIDE = 256  # of the finished image, for comparing alternatives with ours

Pixels = np.ndarray[Any, Any]
Way = Callable[[bytes], Any]


def jpeg(name: str, size: tuple[int, int] | None = None) -> bytes:
    """A photograph as a file, enlarged to `size` or as it is."""
    buffer = io.BytesIO()
    image = photograph(name)
    image = image.resize(size, Image.Resampling.BICUBIC) if size else image
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def drafted(data: bytes, shrink: int) -> Image.Image:
    """Decode at 1/shrink of the size, rounded up, by leaving out DCT coefficients."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (image.width // shrink, image.height // shrink))
    return image.convert("RGB")


def finish_drafted(data: bytes, shrink: int, side: int = SIDE) -> Pixels:
    """Decode reduced, then shrink to `side`; a pixel from rounding up counts in part."""
    width, height = Image.open(io.BytesIO(data)).size
    return finish(drafted(data, shrink), side, box=(0, 0, width / shrink, height / shrink))


def finish(image: Image.Image, side: int = SIDE, **options: Any) -> Pixels:
    """Stretch to side x side, bilinear, like the official preset but in one call."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, **options))


def floats_at_once(preset: Preprocess, image: Image.Image) -> Pixels:
    """Like `preprocess`, but all rows together instead of in strips."""
    strip = preprocess.STRIP
    try:
        preprocess.STRIP = 1 << 40
        return preset(image)
    finally:
        preprocess.STRIP = strip


def decoding(data: bytes) -> dict[str, Way]:
    ways: dict[str, Way] = {"open_image": open_image}
    if find_spec("simplejpeg"):
        import simplejpeg

        ways["simplejpeg, array"] = simplejpeg.decode_jpeg
        ways["simplejpeg, Pillow image"] = lambda data: Image.fromarray(simplejpeg.decode_jpeg(data))
    return ways | {
        f"draft 1/{shrink}": lambda data, shrink=shrink: drafted(data, shrink) for shrink in (2, 4)
    }


def finishing(data: bytes) -> dict[str, Way]:
    """From the file to SIDE x SIDE bytes."""
    ways: dict[str, Way] = {"ours": lambda data: finish(open_image(data))}
    for shrink in (2, 4, 8):
        ways[f"draft 1/{shrink}"] = lambda data, shrink=shrink: finish_drafted(data, shrink)
    for gap in (2.0, 3.0):
        ways[f"reducing_gap {gap:g}"] = lambda data, gap=gap: finish(open_image(data), reducing_gap=gap)
    return ways


def median_ms(ways: dict[str, Way], data: list[bytes], rounds: int) -> dict[str, float]:
    """Median milliseconds per image of each way, after one warm-up round."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for one in data:
        runs = {name: partial(way, one) for name, way in ways.items()}
        for name, seconds in take_turns(runs, rounds, time.thread_time).items():
            taken[name] += seconds
    return {name: round(1000 * statistics.median(seconds), 3) for name, seconds in taken.items()}


def difference(ways: dict[str, Way], data: list[bytes]) -> dict[str, dict[str, float]]:
    """Differences in grey levels between each way and the first, over all images."""
    first, *others = ways
    found = {}
    for name in others:
        levels = np.concatenate(
            [np.abs(ways[name](one).astype(int) - ways[first](one)).reshape(-1) for one in data]
        )
        found[name] = {
            "mean": round(float(levels.mean()), 4),
            "p999": float(np.quantile(levels, 0.999)),
            "max": float(levels.max()),
        }
    return found


def reduced_on_real_detail() -> list[dict[str, Any]]:
    """Error of reduced decoding on photographs at their original size, by how much shrinking is left.

    left: shorter side of the reduced image over that of the finished image.
    """
    found: dict[tuple[int, float], list[float]] = {}
    for name in PHOTOGRAPHS:
        data = jpeg(name)
        whole = open_image(data)
        for side, shrink in itertools.product((16, 24, 32, 48, 64, 96, 128, 192, 256), (2, 4)):
            left = min(whole.size) / shrink / side
            if left >= 1:
                levels = np.abs(finish_drafted(data, shrink, side).astype(int) - finish(whole, side))
                rounded = 2.0 ** round(math.log2(left))
                found.setdefault((shrink, rounded), []).append(float(np.quantile(levels, 0.999)))
    return [
        {"shrink": shrink, "left": left, "pictures": len(levels), "worst_p999": max(levels)}
        for (shrink, left), levels in sorted(found.items())
    ]


def measure(size: tuple[int, int], rounds: int) -> dict[str, Any]:
    data = [jpeg(name, size) for name in ENLARGED]
    images = {one: open_image(one) for one in data}
    presets: dict[str, Way] = {}
    for name in PRESETS:
        ours = Preprocess.from_preset(name, None, IMAGENET_MEAN, IMAGENET_STD)
        presets[name] = lambda one, ours=ours: ours(images[one])
        if ours.steps.dtype == "float32":
            presets[f"{name}, floats at once"] = lambda one, ours=ours: floats_at_once(ours, images[one])
    ways = finishing(data[0])
    return {
        "decode_ms": median_ms(decoding(data[0]), data, rounds),
        "preset_ms": median_ms(presets, data, rounds),
        "finished_ms": median_ms(ways, data, rounds),
        "grey_levels_from_ours": difference(ways, data),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    record: dict[str, Any] = {
        **new_record("pictures", PACKAGES),
        "rounds": options.rounds,
        "reduced_on_real_detail": reduced_on_real_detail(),
        "sizes": {},
    }
    for row in record["reduced_on_real_detail"]:
        print(
            f"decoded at 1/{row['shrink']}, then shrunk {row['left']:g}x: worst p999 {row['worst_p999']:.1f}"
        )
    for text in options.sizes:
        width, height = map(int, text.split("x"))
        record["sizes"][text] = found = measure((width, height), options.rounds)
        for step in ("decode_ms", "preset_ms", "finished_ms"):
            for name, milliseconds in found[step].items():
                levels = found["grey_levels_from_ours"].get(name) if step == "finished_ms" else None
                beside = f"   from ours: {levels}" if levels else ""
                print(f"{text} {step[:-3]} {name}: {milliseconds:.2f} ms{beside}")
    print(f"written: {save(record, 'pictures')}")


if __name__ == "__main__":
    main()
