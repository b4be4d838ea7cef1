"""The toy sets for segmentation and depth (`python -m dinov3_ref.data.toy.scenes FOLDER`).

    FOLDER/ade/   textures side by side, in the layout of ADE20K: class ids from 1, the border 0, ignored
    FOLDER/nyu/   a striped floor that runs away from the camera, in the layout of NYU: millimetres in 16 bits

Everything is drawn by formula from a seed. Shapes: S side, h w height and width in pixels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinov3_ref.data.sample import derive_seed
from dinov3_ref.data.toy.report import run_writer
from dinov3_ref.data.toy.sets import UNSEEN, Pixels, draw_texture, paint
from dinov3_ref.errors import DataError

IGNORED_BORDER = 2  # pixels
FOCAL = 518.8579  # of NYU's camera, written in its lists
NEAREST, FARTHEST = 1.0, 8.0  # metres, of the floor's lowest and highest row


def write_scenes(
    root: Path, *, train: int = 60, test: int = 20, side: int = 128, seed: int = 0
) -> dict[str, int]:
    """Write both sets below `root`; return {set: number of images}. Raises `DataError` if `root` exists."""
    if root.exists():
        raise DataError(f"'{root}' exists already; remove it or choose another folder")
    if train < 1 or test < 1 or side < 32:
        raise DataError(f"{train} and {test} images of {side} px; wanted at least 1 image and 32 px")
    counts = {"training": train, "validation": test}
    for split, count in counts.items():
        for number, (pixels, ids) in enumerate(textured(count, side, derive_seed(seed, split))):
            name = f"ADE_{split}_{number + 1:08d}"
            _save(root / "ade/images" / split / f"{name}.jpg", pixels)
            _save(root / "ade/annotations" / split / f"{name}.png", ids)
    for split, name, count in (("train", "nyu_train.txt", train), ("test", "nyu_test.txt", test)):
        lines = []
        for number, (pixels, depth) in enumerate(floors(count, side, derive_seed(seed, "floor", split))):
            image, target = f"{split}/rgb_{number:05d}.jpg", f"{split}/sync_depth_{number:05d}.png"
            _save(root / "nyu" / image, pixels)
            _save(root / "nyu" / target, depth)
            lines.append(f"{image} {target} {FOCAL}\n")
        (root / "nyu" / name).write_text("".join(lines))
    return {"ade": train + test, "nyu": train + test}


def textured(count: int, side: int, seed: int) -> Iterator[tuple[Pixels, NDArray[np.uint8]]]:
    """Two textures beside each other: pixels uint8 [S,S,3], and ids 1 to 6 [S,S] with 0 at the border."""
    kinds = list(UNSEEN.values())
    for number in range(count):
        rng = np.random.default_rng(derive_seed(seed, number))
        left, right = rng.choice(len(kinds), 2, replace=False)
        cut = int(side * rng.uniform(0.3, 0.7))
        pixels = draw_texture(kinds[left], side, rng)
        pixels[:, cut:] = draw_texture(kinds[right], side, rng)[:, cut:]
        ids = np.full((side, side), left + 1, np.uint8)
        ids[:, cut:] = right + 1
        border = np.ones_like(ids, bool)
        border[IGNORED_BORDER:-IGNORED_BORDER, IGNORED_BORDER:-IGNORED_BORDER] = False
        ids[border] = 0
        yield pixels, ids


def floors(count: int, side: int, seed: int) -> Iterator[tuple[Pixels, NDArray[np.uint16]]]:
    """A floor of stripes: pixels uint8 [h,w,3], and millimetres [h,w]; a row of NYU's ratio 3:4.

    The farther, the closer the stripes and the darker the floor.
    """
    width = side * 4 // 3
    for number in range(count):
        rng = np.random.default_rng(derive_seed(seed, number))
        far = rng.uniform(0.6, 1.0) * FARTHEST
        share = np.linspace(0.0, 1.0, side)[:, None]  # 0 at the top: of the inverse depth between both ends
        depth = np.tile(1 / (1 / far + share * (1 / NEAREST - 1 / far)), (1, width))
        pixels = paint(np.sin(2 * np.pi * rng.uniform(1.5, 2.5) * depth + rng.uniform(0, 6)), rng)
        light = np.exp(-depth / 4)[..., None]
        yield (pixels * light).astype(np.uint8), (1000 * depth).round().astype(np.uint16)


def _save(path: Path, values: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the sets; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dinov3_ref.data.toy.scenes",
        description="Write small, seeded sets for segmentation and depth, in the layouts of ADE20K and NYU.",
    )
    parser.add_argument("out", type=Path, help="new folder to write")
    parser.add_argument("--train", type=int, default=60, help="training images of each set (%(default)s)")
    parser.add_argument("--test", type=int, default=20, help="test images of each set (%(default)s)")
    parser.add_argument("--side", type=int, default=128, help="image side in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (%(default)s)")
    options = parser.parse_args(arguments)
    sizes = {"train": options.train, "test": options.test, "side": options.side, "seed": options.seed}
    return run_writer(lambda: write_scenes(options.out, **sizes), options.out)


if __name__ == "__main__":
    sys.exit(main())
