"""Foreground by component and by classifier, on scenes whose foreground is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import MisuseError
from dinodeploy.visualize.foreground import fit_logistic, otsu
from dinodeploy.visualize.look import Look
from dinodeploy.visualize.maps import MapOptions, fit_painter
from tests.support.images.scenes import H, W, disc, scene


def test_foreground_touches_the_border_less() -> None:
    """Whichever sign the first component has: the background's direction is turned around once."""
    for sign in (1, -1):
        looks = [scene(0), scene(1, h=10, w=20, centre=(0.5, 0.3))]
        looks = [Look(look.id, look.image, sign * look.patches, None) for look in looks]
        painter, words = fit_painter("foreground", looks, MapOptions())
        for look, wanted in zip(looks, (disc(), disc(10, 20, centre=(0.5, 0.3))), strict=True):
            colours = painter(look)[0].colours
            assert set(np.unique(colours)) == {0, 255}
            assert ((colours[..., 0] > 0) == wanted).mean() > 0.95
        assert "are foreground" in words


def test_otsu_separates_two_clusters() -> None:
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(-2, 0.3, 500), draw.normal(3, 0.3, 100)]).astype(np.float32)
    assert -1 < otsu(values) < 2


def test_the_classifier_learns_from_masks(tmp_path: Path) -> None:
    """A mask for one image of two also finds the other's foreground, which fills its border."""
    taught, other = scene(0), scene(1, centre=(0.1, 0.1))
    mask = Image.fromarray(disc().astype(np.uint8) * 255).resize((W * 4, H * 4), Image.Resampling.NEAREST)
    mask.save(tmp_path / "scene0.png")
    painter, _ = fit_painter("foreground", [taught, other], MapOptions(mask=str(tmp_path)))
    found = painter(other)[0].colours[..., 0] > 0
    assert (found == disc(centre=(0.1, 0.1))).mean() > 0.95
    pca, words = fit_painter("pca", [taught, other], MapOptions(mask=str(tmp_path)))
    black = ~pca(taught)[0].colours.any(axis=-1)
    assert (black == ~disc()).mean() > 0.95
    assert "foreground" in words

    transparent = mask.convert("RGBA")
    transparent.putalpha(mask)
    transparent.save(tmp_path / "scene0.png")
    again, _ = fit_painter("foreground", [taught, other], MapOptions(mask=str(tmp_path)))
    assert (again(other)[0].colours == painter(other)[0].colours).all()


def test_masks_without_both_sides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="is not a folder"):
        fit_painter("pca", [scene()], MapOptions(mask="yes"))
    with pytest.raises(MisuseError, match=r"no image has a mask there; wanted NAME\.png"):
        fit_painter("pca", [scene()], MapOptions(mask=str(tmp_path)))
    Image.new("L", (64, 64), 255).save(tmp_path / "scene0.png")
    with pytest.raises(MisuseError, match="only one side"):
        fit_painter("pca", [scene()], MapOptions(mask=str(tmp_path)))


def test_logistic_regression_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    x = draw.standard_normal((400, 6)).astype(np.float32) * [1, 5, 0.2, 1, 1, 1] + [0, 3, 0, 0, 0, 0]
    y = x @ [1, 0.2, 5, 0, 0, -1] + draw.normal(0, 1, 400) > 0.6
    weights, bias = fit_logistic(x.astype(np.float32), y)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    theirs = LogisticRegression(C=1 / (1e-2 * 400), tol=1e-10, max_iter=1000).fit((x - mean) / deviation, y)
    np.testing.assert_allclose(weights * deviation, theirs.coef_[0], rtol=1e-2, atol=1e-3)
    assert bias + weights @ mean == pytest.approx(theirs.intercept_[0], rel=1e-2, abs=1e-3)
