"""PCA of patch features with one basis for many images (docs/spec.md 5.9, notebook `pca`).

The three strongest components, whitened, become red, green and blue by sigmoid(2x). The same colour means
the same feature in every image.
Shapes: h w patch grid, N patches of all images, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import ByteArray, FloatArray
from dinodeploy.errors import MisuseError

Mask = NDArray[np.bool_]  # [h,w]

COLOURS = 3


@dataclass(frozen=True)
class Components:
    """A basis of patch features."""

    mean: FloatArray  # [D]
    axes: FloatArray  # [D,3], unit columns, strongest first
    deviation: FloatArray  # [3]
    share: tuple[float, ...]  # of the variance, per component

    def project(self, patches: FloatArray) -> FloatArray:
        """[...,D] -> whitened coordinates [...,3]."""
        return ((patches - self.mean) @ self.axes / self.deviation).astype(np.float32, copy=False)

    def rgb(self, patches: FloatArray) -> ByteArray:
        """[h,w,D] -> colours [h,w,3]."""
        return np.round(255 / (1 + np.exp(-2 * self.project(patches)))).astype(np.uint8)


def strongest_first(
    moments: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Eigenvalues [D] and eigenvectors as columns [D,D] of a symmetric matrix, the largest first."""
    values, vectors = np.linalg.eigh(moments)
    return values[::-1], vectors[:, ::-1]


def fit_components(maps: Sequence[FloatArray], masks: Sequence[Mask] | None = None) -> Components:
    """Fit the basis on all patches of `maps` [h,w,D], or only on those inside `masks` [h,w].

    The largest loading of each component is positive, so the same images give the same colours. Raises
    MisuseError for too few patches.
    """
    chosen = masks or [np.ones(patches.shape[:2], bool) for patches in maps]
    count = sum(int(mask.sum()) for mask in chosen)
    if count <= COLOURS:
        raise MisuseError(
            f"{count} patches are too few for {COLOURS} components; use a larger --imgsz, or no --mask"
        )
    D = maps[0].shape[-1]
    # image by image, so that all features are never copied
    total = np.zeros(D)
    for patches, mask in zip(maps, chosen, strict=True):
        total += patches[mask].sum(axis=0, dtype=np.float64)
    mean = total / count
    scatter = np.zeros((D, D))
    for patches, mask in zip(maps, chosen, strict=True):
        centred = patches[mask].astype(np.float64) - mean
        scatter += centred.T @ centred
    values, vectors = strongest_first(scatter / count)
    strongest = vectors[:, :COLOURS]
    largest = strongest[np.abs(strongest).argmax(axis=0), np.arange(COLOURS)]
    variances = np.maximum(values[:COLOURS], np.finfo(np.float32).tiny)
    everything = max(float(np.maximum(values, 0).sum()), float(np.finfo(np.float32).tiny))
    return Components(
        mean.astype(np.float32),
        (strongest * np.where(largest < 0, -1, 1)).astype(np.float32),
        np.sqrt(variances).astype(np.float32),
        tuple(float(value) / everything for value in variances),
    )
