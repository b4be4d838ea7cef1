"""The toy set of captioned images (`python -m dinov3_ref.data.toy.captions FOLDER`): shapes and colours.

    FOLDER/train.tsv         path<TAB>caption: "a small red star on a striped blue background"
    FOLDER/test.tsv          the same for combinations of shape, colours and texture that train.tsv lacks
    FOLDER/train/, test/     the images
    FOLDER/vocabulary.txt    a byte-pair vocabulary learned from these captions, in CLIP's format

The alignment of texts and images is trained on it (recipe `toy_text`). Everything is drawn from a seed.

Shapes: S side in pixels.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dinov3_ref.data.sample import derive_seed
from dinov3_ref.data.toy.report import run_writer
from dinov3_ref.data.toy.sets import Map, Pixels, Texture, checks, dots, stripes
from dinov3_ref.errors import DataError

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "green": (40, 150, 60),
    "blue": (45, 80, 210),
    "yellow": (240, 215, 50),
    "purple": (140, 60, 170),
    "orange": (240, 135, 30),
    "white": (240, 240, 240),
    "black": (30, 30, 30),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = {"small": 0.22, "large": 0.36}  # radius, as a share of the side


def plain(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.ones_like(u)


TEXTURES: dict[str, Texture] = {"plain": plain, "striped": stripes, "dotted": dots, "checked": checks}
PERIOD = (0.14, 0.22)  # of a texture, as a share of the side
SHADE = 0.55  # brightness of a texture's dark parts
TILT = 0.3  # largest rotation of a shape in radians
HELD_OUT = 8  # every so many combinations are only for testing
FORMS = (  # the first one says everything; captions of test.tsv have it
    "a {size} {colour} {shape} on a {texture} {ground} background",
    "a {colour} {shape} on a {texture} {ground} background",
    "a {size} {colour} {shape} on {ground}",
    "a {texture} {ground} background with a {size} {colour} {shape}",
    "a {colour} {shape}",
    "a {shape}",
    "a {texture} {ground} background",
)
PREFIXES = ("", "", "a photo of ", "an image of ", "a drawing of ")
MERGES = 90  # of the vocabulary: words that are frequent in captions become one token
FINE = 4  # shapes are drawn so many times larger: smooth edges
JPEG_QUALITY = 95


class Scene(NamedTuple):
    """What an image shows."""

    shape: str
    colour: str
    texture: str
    ground: str
    size: str

    def caption(self, form: str = FORMS[0]) -> str:
        return form.format(**self._asdict())


def scenes(*, held_out: bool, seed: int = 0) -> list[Scene]:
    """All combinations of train.tsv, or of test.tsv, in a random order. Shape and ground differ in colour."""
    every = [
        Scene(shape, colour, texture, ground, size)
        for shape, colour, texture, ground, size in itertools.product(
            SHAPES, COLOURS, TEXTURES, COLOURS, SIZES
        )
        if colour != ground
    ]
    order = np.random.default_rng(derive_seed(seed, "scenes")).permutation(len(every))
    return [every[place] for number, place in enumerate(order) if (number % HELD_OUT == 0) == held_out]


def draw_scene(scene: Scene, side: int, rng: np.random.Generator) -> Pixels:
    """One image, uint8 [S,S,3]."""
    angle, period = rng.uniform(0, 2 * np.pi), side * rng.uniform(*PERIOD)
    y, x = np.mgrid[0:side, 0:side] * (2 * np.pi / period)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    height = TEXTURES[scene.texture](u, v, rng)
    share = (height - height.min()) / max(float(np.ptp(height)), 1e-9) if scene.texture != "plain" else height
    ground, colour = (np.array(COLOURS[name]) + rng.normal(0, 10, 3) for name in (scene.ground, scene.colour))
    if scene.ground == "black":  # its dark parts would not show
        ground = ground + 45 * share[..., None]
    base = ground * (SHADE + (1 - SHADE) * share[..., None])
    mask = _mask(scene, side, rng)[..., None]
    pixels = base * (1 - mask) + colour * mask + rng.normal(0, 4, (side, side, 3))
    return pixels.clip(0, 255).round().astype(np.uint8)


def _mask(scene: Scene, side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How much of each pixel the shape covers, [S,S] in 0..1."""
    wide = side * FINE
    radius = wide * SIZES[scene.size] * rng.uniform(0.9, 1.1)
    centre = rng.uniform(radius, wide - radius, 2)
    tilt = rng.uniform(-TILT, TILT)
    image = Image.new("L", (wide, wide))
    pen = ImageDraw.Draw(image)
    if scene.shape in ("circle", "ring"):
        for share, fill in ((1.0, 255), (0.55, 0)) if scene.shape == "ring" else ((1.0, 255),):
            reach = radius * share
            pen.ellipse((*(centre - reach), *(centre + reach)), fill=fill)
    else:
        corners = [centre + radius * corner for corner in _corners(scene.shape, tilt)]
        pen.polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float64) / 255


def _corners(shape: str, tilt: float) -> list[NDArray[np.float64]]:
    """Corners of a polygon within the unit circle, turned by `tilt`."""
    if shape == "cross":
        arm, reach = 0.3, 0.95
        quarter = [(arm, reach), (arm, arm), (reach, arm)]
        polar = [
            (np.arctan2(y, x) - turn * np.pi / 2, np.hypot(x, y)) for turn in range(4) for x, y in quarter
        ]
    else:
        count, inner = {"square": (4, None), "triangle": (3, None), "star": (5, 0.42)}[shape]
        steps = count if inner is None else 2 * count
        start = np.pi / 4 if shape == "square" else -np.pi / 2
        radii = [1.0 if inner is None or step % 2 == 0 else inner for step in range(steps)]
        polar = [(start + 2 * np.pi * step / steps, radii[step]) for step in range(steps)]
    return [radius * np.array([np.cos(angle + tilt), np.sin(angle + tilt)]) for angle, radius in polar]


def write_captions(
    root: Path, *, images: int = 6000, test: int = 400, side: int = 64, seed: int = 0
) -> dict[str, int]:
    """Write the set below `root`; return {list: number of images}. The same arguments give the same pixels.

    Raises `DataError` if `root` exists.
    """
    if root.exists():
        raise DataError(f"'{root}' exists already; remove it or choose another folder")
    if min(images, test) < 1 or side < 16:
        raise DataError(f"{images} and {test} images of {side} px; wanted at least 1 image and 16 px")
    counts = {"train": images, "test": test}
    for split, count in counts.items():
        (root / split).mkdir(parents=True)
        every = scenes(held_out=split == "test", seed=seed)
        lines = []
        for number in range(count):
            rng = np.random.default_rng(derive_seed(seed, split, number))
            scene = every[number % len(every)]
            prefix, form = ("", FORMS[0]) if split == "test" else (_any(PREFIXES, rng), _any(FORMS, rng))
            name = f"{split}/{number:05d}.jpg"
            Image.fromarray(draw_scene(scene, side, rng)).save(root / name, quality=JPEG_QUALITY)
            lines.append(f"{name}\t{prefix}{scene.caption(form)}\n")
        (root / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    (root / "vocabulary.txt").write_text(vocabulary(), encoding="utf-8")
    return {f"{split}.tsv": count for split, count in counts.items()}


def _any(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def vocabulary(merges: int = MERGES) -> str:
    """A vocabulary file: a comment, then one merge a line, the most frequent pair of symbols first."""
    every = scenes(held_out=False)
    words = Counter(
        word
        for prefix in PREFIXES
        for form in FORMS
        for scene in every
        for word in f"{prefix}{scene.caption(form)}".split()
    )
    spelled = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    lines = ["#version: toy captions of dinov3_ref"]
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in spelled.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        lines.append(" ".join(best))
        spelled = {word: _merge(symbols, best) for word, symbols in spelled.items()}
    return "\n".join(lines) + "\n"


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the set; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dinov3_ref.data.toy.captions",
        description="Write a small, seeded set of captioned images to align texts with.",
    )
    parser.add_argument("out", type=Path, help="new folder to write")
    parser.add_argument("--images", type=int, default=6000, help="training images (default: %(default)s)")
    parser.add_argument("--test", type=int, default=400, help="held-out images (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="image side in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    options = parser.parse_args(arguments)
    sizes = {"images": options.images, "test": options.test, "side": options.side, "seed": options.seed}
    return run_writer(lambda: write_captions(options.out, **sizes), options.out)


if __name__ == "__main__":
    sys.exit(main())
