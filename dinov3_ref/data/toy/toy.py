"""A small, seeded data set of real pictures for a first training run: nothing is downloaded.

    python -m dinov3_ref.data.toy.toy toy --pictures 4000

    toy/pool/                     unlabelled: crops of photographs that scikit-image and scikit-learn carry,
                                  and textures by formula
    toy/digits/{train,test}/0..9  scikit-learn's handwritten digits, enlarged, in random colours and places
    toy/textures/{train,test}/…   kinds of texture that the pool lacks: six by formula, three photographed
    toy/places/{train,test}/…     crops of eleven photographs that the pool lacks, each a class; of their left
                                  halves for training, of the right ones for testing

The pool is for training, the others for kNN and the linear probe: no picture or class of theirs is in it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinov3_ref.data.seeding import derive_seed
from dinov3_ref.data.toy.textures import SEEN, UNSEEN, draw_texture, paint
from dinov3_ref.errors import DataError, Dinov3Error

# (package, file inside it) of the pool's photographs
POOL: tuple[tuple[str, str], ...] = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/camera.png"),
    ("skimage", "data/cell.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/clock_motion.png"),
    ("skimage", "data/coins.png"),
    ("skimage", "data/ihc.png"),
    ("skimage", "data/moon.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/motorcycle_right.png"),
)
# ... and of those that are classes
PLACES: tuple[tuple[str, str], ...] = (
    ("skimage", "data/brick.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/grass.png"),
    ("skimage", "data/gravel.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/page.png"),
    ("skimage", "data/retina.jpg"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/text.png"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)
SURFACES = ("brick", "grass", "gravel")  # grey photographs, classes beside the unseen textures
TEXTURE_SHARE = 0.6  # of the pool
SMALLEST_CROP = 96  # pixels of a photograph
DIGITS_TRAIN = 1200  # of 1,797; the rest is for testing
A_CLASS = {"train": 60, "test": 40}  # pictures of textures and places
QUALITY = 95

Pixels = NDArray[np.uint8]


def write_toy(root: Path, *, pictures: int = 4000, side: int = 128, seed: int = 0) -> dict[str, int]:
    """Write the four sets below `root`; {set: number of pictures}. The same arguments give the same pixels.

    Raises `DataError` if `root` is there already or a package is missing.
    """
    if root.exists():
        raise DataError(f"'{root}' is there already; remove it or choose another folder")
    if pictures < 1 or side < 16:
        raise DataError(f"{pictures} pictures of {side} px; wanted 1 picture and 16 px at least")
    sets = {
        "pool": _pool(pictures, side, seed),
        "digits": _digits(side, seed),
        "textures": _textures(side, seed),
        "places": _places(side, seed),
    }
    return {name: _write(root / name, made) for name, made in sets.items()}


def _write(root: Path, made: Iterator[tuple[str, Pixels]]) -> int:
    count = 0
    for name, pixels in made:
        path = root / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=QUALITY)
        count += 1
    return count


def _pool(pictures: int, side: int, seed: int) -> Iterator[tuple[str, Pixels]]:
    photographs = [_photograph(*place) for place in POOL]
    kinds = list(SEEN.values())
    textures = int(TEXTURE_SHARE * pictures)
    for number in range(pictures - textures):
        rng = _rng(seed, "photograph", number)
        yield f"photographs/{number:05d}", _crop(photographs[number % len(photographs)], side, rng)
    for number in range(textures):
        rng = _rng(seed, "texture", number)
        yield f"textures/{number:05d}", draw_texture(kinds[number % len(kinds)], side, rng)


def _digits(side: int, seed: int) -> Iterator[tuple[str, Pixels]]:
    _package("sklearn")
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    for number, (digit, label) in enumerate(zip(grey.reshape(-1, 8, 8), labels, strict=True)):
        split = "train" if number < DIGITS_TRAIN else "test"
        yield f"{split}/{label}/{number:04d}", _place(digit / 16, side, _rng(seed, "digit", number))


def _place(digit: NDArray[Any], side: int, rng: np.random.Generator) -> Pixels:
    """An 8x8 digit, 55 to 95 % as large as the picture, anywhere in it, in two colours."""
    size = int(side * rng.uniform(0.55, 0.95))
    enlarged = Image.fromarray(digit.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    top, left = rng.integers(0, side - size + 1, 2)
    height = np.zeros((side, side))
    height[top : top + size, left : left + size] = np.asarray(enlarged).clip(0, 1)
    return paint(height, rng)


def _textures(side: int, seed: int) -> Iterator[tuple[str, Pixels]]:
    for split, count in A_CLASS.items():
        for name, kind in UNSEEN.items():
            for number in range(count):
                rng = _rng(seed, split, name, number)
                yield f"{split}/{name}/{number:03d}", draw_texture(kind, side, rng)
        for name in SURFACES:
            half = _half(_photograph("skimage", f"data/{name}.png"), split)
            for number in range(count):
                rng = _rng(seed, split, name, number)
                grey = _crop(half, side, rng).mean(axis=-1)
                yield f"{split}/{name}/{number:03d}", paint(grey, rng)


def _places(side: int, seed: int) -> Iterator[tuple[str, Pixels]]:
    for split, count in A_CLASS.items():
        for place in PLACES:
            half, name = _half(_photograph(*place), split), Path(place[1]).stem
            for number in range(count):
                yield (
                    f"{split}/{name}/{number:03d}",
                    _crop(half, side, _rng(seed, split, name, number, "place")),
                )


def _half(photograph: Image.Image, split: str) -> Image.Image:
    """Left for training, right for testing: the two share no pixel."""
    middle = photograph.width // 2
    left, right = (0, middle) if split == "train" else (middle, photograph.width)
    return photograph.crop((left, 0, right, photograph.height))


def _crop(photograph: Image.Image, side: int, rng: np.random.Generator) -> Pixels:
    """A square of random size and place, at times mirrored: uint8 [S,S,3]."""
    size = int(rng.integers(SMALLEST_CROP, min(photograph.size) + 1))
    left, top = (int(rng.integers(0, length - size + 1)) for length in photograph.size)
    crop = photograph.crop((left, top, left + size, top + size))
    pixels = np.asarray(crop.resize((side, side), Image.Resampling.LANCZOS))
    return pixels[:, ::-1].copy() if rng.random() < 0.5 else pixels


def _photograph(package: str, file: str) -> Image.Image:
    with Image.open(_package(package) / file) as image:
        return image.convert("RGB")


def _package(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise DataError(
            f"the toy set wants the package {name}; install scikit-image and scikit-learn, which carry its "
            "pictures"
        )
    return Path(spec.origin).parent


def _rng(*parts: int | str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(*parts))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dinov3_ref.data.toy.toy", description=__doc__.splitlines()[0]
    )
    parser.add_argument("out", type=Path, help="folder to write, which must not be there yet")
    parser.add_argument("--pictures", type=int, default=4000, help="in the pool (%(default)s)")
    parser.add_argument("--side", type=int, default=128, help="of every picture in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    options = parser.parse_args()
    try:
        counts = write_toy(options.out, pictures=options.pictures, side=options.side, seed=options.seed)
    except Dinov3Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"error: '{error.filename}': {error.strerror}", file=sys.stderr)
        sys.exit(DataError.exit_code)
    for name, count in counts.items():
        print(f"{options.out / name}  {count} pictures")


if __name__ == "__main__":
    main()
