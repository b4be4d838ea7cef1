"""The toy data set (`python -m dinov3_ref.data.toy FOLDER`): four small sets of real images.

Everything is made from installed packages and a seed; nothing is downloaded.

    toy/pool/                     unlabelled: crops of photographs shipped with scikit-image, and textures
                                  drawn by formula
    toy/digits/{train,test}/0..9  handwritten digits of scikit-learn, enlarged, random colours and positions
    toy/textures/{train,test}/…   textures that the pool lacks: six drawn by formula, three photographed
    toy/places/{train,test}/…     crops of eleven photographs that the pool lacks, one class per photograph;
                                  the left half is for training, the right half for testing

Train on the pool. Evaluate (kNN, linear probe) on the others: the pool holds none of their images or classes.
Shapes: S side in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinov3_ref.data.seeding import derive_seed
from dinov3_ref.data.toy.textures import SEEN, UNSEEN, draw_texture, paint
from dinov3_ref.errors import DataError

# Photographs of the pool: (package, file inside the package).
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
# Photographs that are classes of `places`.
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
SURFACES = ("brick", "grass", "gravel")  # grey photographs: further classes of `textures`
TEXTURE_SHARE = 0.6  # share of the pool that is drawn by formula
SMALLEST_CROP = 96  # side of the smallest crop of a photograph, in pixels
DIGITS_TRAIN = 1200  # of 1,797 digits; the rest is for testing
PER_CLASS = {"train": 60, "test": 40}  # images per class of `textures` and `places`
JPEG_QUALITY = 95

Pixels = NDArray[np.uint8]  # [S,S,3]


def write_toy(root: Path, *, images: int = 4000, side: int = 128, seed: int = 0) -> dict[str, int]:
    """Write the four sets below `root` and return {set: number of images}.

    images: size of the pool. The same arguments give the same pixels. Raises `DataError` if `root` exists or
    a package is missing.
    """
    if root.exists():
        raise DataError(f"'{root}' exists already; remove it or choose another folder")
    if images < 1 or side < 16:
        raise DataError(f"{images} images of {side} px; wanted at least 1 image and 16 px")
    sets = {
        "pool": pool_images(images, side, seed),
        "digits": digit_images(side, seed),
        "textures": texture_images(side, seed),
        "places": place_images(side, seed),
    }
    return {name: _write(root / name, made) for name, made in sets.items()}


def _write(root: Path, made: Iterator[tuple[str, Pixels]]) -> int:
    count = 0
    for name, pixels in made:
        path = root / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)
        count += 1
    return count


def pool_images(images: int, side: int, seed: int) -> Iterator[tuple[str, Pixels]]:
    """(name, pixels uint8 [S,S,3]) of the unlabelled pool."""
    photographs = [_photograph(*place) for place in POOL]
    kinds = list(SEEN.values())
    textures = int(TEXTURE_SHARE * images)
    for number in range(images - textures):
        rng = _rng(seed, "photograph", number)
        yield f"photographs/{number:05d}", random_crop(photographs[number % len(photographs)], side, rng)
    for number in range(textures):
        rng = _rng(seed, "texture", number)
        yield f"textures/{number:05d}", draw_texture(kinds[number % len(kinds)], side, rng)


def digit_images(side: int, seed: int) -> Iterator[tuple[str, Pixels]]:
    """(split/class/name, pixels uint8 [S,S,3]) of the handwritten digits."""
    _package("sklearn")
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    for number, (digit, label) in enumerate(zip(grey.reshape(-1, 8, 8), labels, strict=True)):
        split = "train" if number < DIGITS_TRAIN else "test"
        yield f"{split}/{label}/{number:04d}", paint_digit(digit / 16, side, _rng(seed, "digit", number))


def paint_digit(digit: NDArray[Any], side: int, rng: np.random.Generator) -> Pixels:
    """An 8x8 digit in 0..1 -> uint8 [S,S,3]: 55 to 95 % of the image side, random position, two colours."""
    size = int(side * rng.uniform(0.55, 0.95))
    enlarged = Image.fromarray(digit.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    top, left = rng.integers(0, side - size + 1, 2)
    height = np.zeros((side, side))
    height[top : top + size, left : left + size] = np.asarray(enlarged).clip(0, 1)
    return paint(height, rng)


def texture_images(side: int, seed: int) -> Iterator[tuple[str, Pixels]]:
    """(split/class/name, pixels uint8 [S,S,3]) of textures that the pool lacks."""
    for split, count in PER_CLASS.items():
        for name, kind in UNSEEN.items():
            for number in range(count):
                rng = _rng(seed, split, name, number)
                yield f"{split}/{name}/{number:03d}", draw_texture(kind, side, rng)
        for name in SURFACES:
            half = half_of(_photograph("skimage", f"data/{name}.png"), split)
            for number in range(count):
                rng = _rng(seed, split, name, number)
                grey = random_crop(half, side, rng).mean(axis=-1)
                yield f"{split}/{name}/{number:03d}", paint(grey, rng)


def place_images(side: int, seed: int) -> Iterator[tuple[str, Pixels]]:
    """(split/class/name, pixels uint8 [S,S,3]) of photographs that the pool lacks."""
    for split, count in PER_CLASS.items():
        for place in PLACES:
            half, name = half_of(_photograph(*place), split), Path(place[1]).stem
            for number in range(count):
                yield (
                    f"{split}/{name}/{number:03d}",
                    random_crop(half, side, _rng(seed, split, name, number, "place")),
                )


def half_of(photograph: Image.Image, split: str) -> Image.Image:
    """The left half for training, the right half for testing: they share no pixel."""
    middle = photograph.width // 2
    left, right = (0, middle) if split == "train" else (middle, photograph.width)
    return photograph.crop((left, 0, right, photograph.height))


def random_crop(photograph: Image.Image, side: int, rng: np.random.Generator) -> Pixels:
    """A square crop of random size and position, mirrored with probability 0.5: uint8 [S,S,3]."""
    size = int(rng.integers(SMALLEST_CROP, min(photograph.size) + 1))
    left, top = (int(rng.integers(0, length - size + 1)) for length in photograph.size)
    crop = photograph.crop((left, top, left + size, top + size))
    pixels = np.asarray(crop.resize((side, side), Image.Resampling.LANCZOS))
    return pixels[:, ::-1].copy() if rng.random() < 0.5 else pixels


def _photograph(package: str, file: str) -> Image.Image:
    with Image.open(_package(package) / file) as image:
        return image.convert("RGB")


def _package(name: str) -> Path:
    """Folder of an installed package, found without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise DataError(
            f"the toy data set needs images of the package {name}, which is not installed; "
            "pip install scikit-image scikit-learn"
        )
    return Path(spec.origin).parent


def _rng(*parts: int | str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(*parts))
