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

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinov3_ref.data.sample import derive_seed
from dinov3_ref.errors import DataError

Map = NDArray[np.float64]  # [S,S]
Pixels = NDArray[np.uint8]  # [S,S,3]

PERIOD = (0.08, 0.3)  # range of the pattern's period, as a share of the side
PEN_STEPS = 48  # points along a stroke
NOISE = 0.03  # standard deviation, relative to the range of the height map


def stripes(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.sin(u)


def dots(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.where(np.cos(u) + np.cos(v) > 1, 1.0, 0.0)


def clouds(u: Map, v: Map, rng: np.random.Generator) -> Map:
    """Smooth noise of four octaves."""
    side = len(u)
    octaves = [smooth_noise(side, 2 ** (n + 2), rng) / 2**n for n in range(4)]
    return np.sum(octaves, axis=0)


def waves(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.sin(u + 1.5 * np.sin(v))


def lattice(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.maximum(np.cos(u), np.cos(v)) ** 5


def zigzag(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.sin(u + 2 * np.arcsin(np.sin(v)))


def strokes(u: Map, v: Map, rng: np.random.Generator) -> Map:
    """One mark of a thick pen: a smooth line through a few random points near the centre."""
    side = len(u)
    points = rng.uniform(0.2, 0.8, (rng.integers(3, 7), 2)) * side
    place = np.linspace(0, len(points) - 1, PEN_STEPS)
    line = np.stack([np.interp(place, np.arange(len(points)), axis) for axis in points.T], axis=1)
    kernel = np.hanning(PEN_STEPS // len(points) + 2)
    edges = ((len(kernel) // 2, (len(kernel) - 1) // 2), (0, 0))
    smooth = np.stack(
        [np.convolve(axis, kernel / kernel.sum(), "valid") for axis in np.pad(line, edges, "edge").T]
    )
    y, x = np.mgrid[0:side, 0:side]
    distance = np.min([np.hypot(y - b, x - a) for a, b in smooth.T], axis=0)
    return 1 / (1 + np.exp((distance - side * rng.uniform(0.03, 0.09)) / (0.015 * side)))


def checks(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.where(np.sin(u) * np.sin(v) > 0, 1.0, 0.0)


def rings(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.sin(np.hypot(u, v))


def honeycomb(u: Map, v: Map, rng: np.random.Generator) -> Map:
    """Sum of three waves at 120 degrees."""
    return sum(np.cos(u * np.cos(a) + v * np.sin(a)) for a in (0, 2 * np.pi / 3, 4 * np.pi / 3))


def marble(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.abs(np.sin(u / 2 + 4 * clouds(u, v, rng)))


def cells(u: Map, v: Map, rng: np.random.Generator) -> Map:
    """Distance to the nearest of some random points."""
    reach = np.abs(u).max()
    centres = rng.uniform(-reach, reach, (int((reach / np.pi) ** 2) + 4, 2))
    return np.min([np.hypot(u - x, v - y) for x, y in centres], axis=0)


def speckle(u: Map, v: Map, rng: np.random.Generator) -> Map:
    return np.where(smooth_noise(len(u), 24, rng) > 0.25, 1.0, 0.0)


Texture = Callable[[Map, Map, np.random.Generator], Map]

# Kinds for training, and kinds only for evaluation.
SEEN: dict[str, Texture] = {
    kind.__name__: kind for kind in (stripes, dots, clouds, waves, lattice, zigzag, strokes)
}
UNSEEN: dict[str, Texture] = {
    kind.__name__: kind for kind in (checks, rings, honeycomb, marble, cells, speckle)
}


def draw_texture(texture: Texture, side: int, rng: np.random.Generator) -> Pixels:
    """One image, uint8 [S,S,3]."""
    angle, period = rng.uniform(0, 2 * np.pi), side * rng.uniform(*PERIOD)
    offset = rng.uniform(-side / 2, side / 2, 2)
    y, x = (np.mgrid[0:side, 0:side] - side / 2) - offset[:, None, None]
    scale = 2 * np.pi / period
    u, v = scale * (x * np.cos(angle) + y * np.sin(angle)), scale * (y * np.cos(angle) - x * np.sin(angle))
    return paint(texture(u, v, rng), rng)


def paint(height: Map, rng: np.random.Generator) -> Pixels:
    """Height map [S,S] of any range -> uint8 [S,S,3] between two different random colours, with noise."""
    low, high = height.min(), height.max()
    share = (height - low) / max(high - low, 1e-9) + rng.normal(0, NOISE, height.shape)
    first = rng.uniform(0, 1, 3)
    second = (first + rng.uniform(0.35, 0.65, 3)) % 1  # every channel differs by at least 0.35, modulo 1
    colours = first + share[..., None] * (second - first)
    return (255 * colours.clip(0, 1)).round().astype(np.uint8)


def smooth_noise(side: int, cells_per_side: int, rng: np.random.Generator) -> Map:
    """Random numbers on a coarse grid, enlarged bicubically: [S,S], about -1..1."""
    coarse: Any = rng.uniform(-1, 1, (cells_per_side, cells_per_side)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), np.float64)


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
