"""PCA of patch features: the basis is the singular vectors, the same for every image."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.visualize.components import fit_components
from tests.support.images.scenes import D, scene


def test_components_are_the_singular_vectors() -> None:
    looks = [scene(0), scene(1, h=7, w=9)]
    basis = fit_components([look.patches for look in looks])
    rows = np.concatenate([look.patches.reshape(-1, D) for look in looks]).astype(np.float64)
    _, values, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs((axes[:3] @ basis.axes).diagonal()), 1, atol=1e-5)
    np.testing.assert_allclose(basis.deviation, values[:3] / np.sqrt(len(rows)), rtol=1e-4)
    np.testing.assert_allclose(basis.share, values[:3] ** 2 / (values**2).sum(), rtol=1e-4)
    assert abs(basis.axes[3, 0]) > 0.95, "the direction that makes the difference"
    assert basis.axes[np.abs(basis.axes).argmax(axis=0), range(3)].min() > 0, "signs are settled"
    projected = np.concatenate([basis.project(look.patches).reshape(-1, 3) for look in looks])
    np.testing.assert_allclose(projected.std(axis=0), 1, rtol=1e-3)


def test_too_few_patches_are_refused() -> None:
    with pytest.raises(MisuseError, match="3 patches are too few"):
        fit_components([np.zeros((1, 3, D), np.float32)])
    basis = fit_components([np.ones((2, 3, D), np.float32)])
    assert np.isfinite(basis.project(np.ones((2, 3, D), np.float32))).all(), "no variance at all"
