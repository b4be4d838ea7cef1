"""Foreground masks from patch features, in one of two ways (docs/spec.md 5.9).

    first component   the strongest component of all patches, split where the two sides differ most (Otsu
                      1979); the side that touches the image borders less is the foreground
    classifier        logistic regression on patches of images with masks, using patches that are less than
                      1 % or more than 99 % inside; this is the method of the published notebook

A 3x3 median removes single patches from both. Shapes: h w patch grid, N patches, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import MisuseError
from dinodeploy.images.open import open_image
from dinodeploy.visualize.components import Mask, fit_components
from dinodeploy.visualize.look import Look

Find = Callable[[FloatArray], Mask]  # a map [h,w,D] -> its foreground [h,w]

PURE = 0.01  # share of a training patch that may belong to the other side
STEPS = 25  # of Newton's method; it converges in about eight
PENALTY = 1e-2  # on weights, per patch and standardised feature
BINS = 128


def tidy(mask: Mask) -> Mask:
    """3x3 median."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(image.filter(ImageFilter.MedianFilter(3))) > 127


def foreground_by_component(maps: Sequence[FloatArray]) -> Find:
    """Fit one basis and one threshold on all `maps` [h,w,D]; return a function from a map to its mask."""
    basis = fit_components(maps)
    firsts = [basis.project(patches)[..., 0] for patches in maps]
    cut = otsu(np.concatenate([first.ravel() for first in firsts]))
    above_at_border = np.concatenate([_border(first > cut) for first in firsts]).mean()
    above = np.concatenate([(first > cut).ravel() for first in firsts]).mean()
    sign = -1 if above_at_border > above else 1
    return lambda patches: tidy((basis.project(patches)[..., 0] > cut) == (sign > 0))


def otsu(values: FloatArray) -> float:
    """The threshold with the largest variance between the two classes (Otsu, IEEE SMC 9, 1979)."""
    counts, edges = np.histogram(values, BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    between = np.nan_to_num(between[:-1])
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))  # several, if bins between are empty
    return float(edges[1 + int(best[len(best) // 2])])


def _border(mask: Mask) -> Mask:
    return np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])


def foreground_by_classifier(looks: Sequence[Look], folder: Path) -> Find:
    """Fit on the images that have a mask in `folder` (same name, .png); return a function as above.

    White is foreground, or opaque where the mask has transparency. Raises MisuseError where no image has a
    mask, or where the masks show only foreground or only background.
    """
    features: list[FloatArray] = []
    labels: list[NDArray[np.bool_]] = []
    for look in looks:
        path = folder / f"{Path(look.id).stem}.png"
        if path.is_file():
            share = patch_shares(path, look.grid)
            pure = (share < PURE) | (share > 1 - PURE)
            features.append(look.patches[pure])
            labels.append(share[pure] > 1 - PURE)
    if not features:
        raise MisuseError(f"--mask {str(folder)!r}: no image has a mask there; wanted NAME.png for NAME.jpg")
    wanted = np.concatenate(labels)
    if wanted.all() or not wanted.any():
        raise MisuseError(
            f"--mask {str(folder)!r}: the masks show only one side; wanted foreground and background"
        )
    weights, bias = fit_logistic(np.concatenate(features), wanted)
    return lambda patches: tidy(patches @ weights + bias > 0)


def patch_shares(path: Path, grid: tuple[int, int]) -> FloatArray:
    """Share of each patch that is foreground [h,w]: a box filter of the mask."""
    with Image.open(path) as opened:
        alpha = opened.getchannel("A") if "A" in opened.getbands() else None
    mask = alpha if alpha is not None else open_image(path).convert("L")
    size = (grid[1], grid[0])
    return np.asarray(mask.resize(size, Image.Resampling.BOX), np.float32) / np.float32(255)


def fit_logistic(features: FloatArray, labels: NDArray[np.bool_]) -> tuple[FloatArray, float]:
    """Weights [D] and bias of L2-penalised logistic regression, by Newton's method in float64."""
    x = features.astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    x = np.concatenate([(x - mean) / deviation, np.ones((len(x), 1))], axis=1)
    y = labels.astype(np.float64)
    penalty = np.full(x.shape[1], PENALTY * len(x))
    penalty[-1] = 1e-6 * len(x)  # almost none on the bias
    solution = np.zeros(x.shape[1])
    for _ in range(STEPS):
        probability = 1 / (1 + np.exp(-np.clip(x @ solution, -30, 30)))
        gradient = x.T @ (probability - y) + penalty * solution
        hessian = (x * (probability * (1 - probability))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        solution -= step
        if np.abs(step).max() < 1e-8:
            break
    weights = solution[:-1] / deviation
    return weights.astype(np.float32), float(solution[-1] - weights @ mean)
