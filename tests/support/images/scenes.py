"""Patch features of an image with a disc in it: what is foreground is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dinodeploy.visualize.look import Look
from tests.support.images.photographs import photograph

H, W, D = 12, 17, 8  # patches, features


def disc(h: int = H, w: int = W, *, centre: tuple[float, float] = (0.5, 0.5)) -> NDArray[np.bool_]:
    """A disc of patches [h,w]: what is foreground in the scenes below."""
    rows, columns = np.mgrid[:h, :w]
    return (rows + 0.5 - h * centre[0]) ** 2 + (columns + 0.5 - w * centre[1]) ** 2 < (min(h, w) / 3) ** 2


def scene(seed: int = 0, *, h: int = H, w: int = W, centre: tuple[float, float] = (0.5, 0.5)) -> Look:
    """Features [h,w,D] that differ by one direction between a disc and the rest, and a little noise."""
    draw = np.random.default_rng(seed)
    inside = disc(h, w, centre=centre)
    patches = 0.3 * draw.standard_normal((h, w, D)) + np.where(inside, 2.0, -1.0)[..., None] * np.eye(D)[3]
    image = photograph("coffee").resize((w * 4, h * 4))
    attention = np.where(inside, 3.0, 1.0)[None] * np.array([1.0, 0.5])[:, None, None]
    return Look(f"scene{seed}.png", image, patches.astype(np.float32), attention.astype(np.float32))
