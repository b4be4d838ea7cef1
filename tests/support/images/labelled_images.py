"""Labelled images in both layouts of `train-head`: scikit-learn's digits, photographs side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.images.photographs import photograph

SCENES = ("retina", "coffee", "chelsea", "rocket")


def write_digits(root: Path, each: int, kinds: int = 10, size: int = 64) -> Path:
    """root/<digit>/<number>.png: `each` handwritten digits of 8x8 pixels, enlarged."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for kind in range(kinds):
        folder = root / f"digit_{kind}"
        folder.mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(digits.target == kind)[:each]):
            image = Image.fromarray((digits.images[index] * 15.9).astype(np.uint8))
            image.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    return root


def write_scenes(root: Path, count: int, *, names: bool = True) -> Path:
    """root/images and root/masks: two of four photographs side by side; the top rows are ignored."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    small = [np.asarray(photograph(name).resize((160, 120))) for name in SCENES]
    for number in range(count):
        left, right = (number % 4, (number + 1 + number // 4) % 4)
        right = right if right != left else (left + 1) % 4
        cut = int(rng.integers(40, 120))
        image = np.concatenate([small[left][:, :cut], small[right][:, cut:]], axis=1)
        mask = np.full((120, 160), left, np.uint8)
        mask[:, cut:], mask[:3] = right, 255
        Image.fromarray(image).save(root / "images" / f"{number:02d}.jpg", quality=95)
        Image.fromarray(mask).save(root / "masks" / f"{number:02d}.png")
    if names:
        (root / "classes.txt").write_text("\n".join(SCENES) + "\n")
    return root
