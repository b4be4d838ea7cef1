"""Components, foreground, similarity, colours: numbers whose right answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dinodeploy.errors import MisuseError
from dinodeploy.visualize.colour import SCALE, enlarge, heat
from dinodeploy.visualize.components import fit_components
from dinodeploy.visualize.foreground import fit_logistic, otsu
from dinodeploy.visualize.look import Look, shrink
from dinodeploy.visualize.maps import WHAT, MapOptions, fit_painter, patch_at, similarity
from dinodeploy.visualize.page import keep_strongest, to_int8
from tests.support.photographs import photograph

H, W, D = 12, 17, 8


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


def test_the_same_feature_has_the_same_colour_in_every_image() -> None:
    a, b = scene(0), scene(1)
    b.patches[2, 3] = a.patches[6, 8]
    painter, words = fit_painter("pca", [a, b], MapOptions())
    assert (painter(a)[0][1][6, 8] == painter(b)[0][1][2, 3]).all()
    assert "%" in words


def test_too_few_patches_are_refused() -> None:
    with pytest.raises(MisuseError, match="3 patches are too few"):
        fit_components([np.zeros((1, 3, D), np.float32)])
    basis = fit_components([np.ones((2, 3, D), np.float32)])
    assert np.isfinite(basis.project(np.ones((2, 3, D), np.float32))).all(), "no variance at all"


def test_foreground_touches_the_border_less() -> None:
    """Whichever sign the first component has: the background's direction is turned around once."""
    for sign in (1, -1):
        looks = [scene(0), scene(1, h=10, w=20, centre=(0.5, 0.3))]
        looks = [Look(look.id, look.image, sign * look.patches, None) for look in looks]
        painter, words = fit_painter("foreground", looks, MapOptions())
        for look, wanted in zip(looks, (disc(), disc(10, 20, centre=(0.5, 0.3))), strict=True):
            colours = painter(look)[0][1]
            assert set(np.unique(colours)) == {0, 255}
            assert ((colours[..., 0] > 0) == wanted).mean() > 0.95
        assert "are foreground" in words


def test_otsu_separates_two_clusters() -> None:
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(-2, 0.3, 500), draw.normal(3, 0.3, 100)]).astype(np.float32)
    assert -1 < otsu(values) < 2


def test_the_classifier_learns_from_masks(tmp_path: Path) -> None:
    """A mask for one picture of two; the other one's foreground, which fills its border, is found by it."""
    taught, other = scene(0), scene(1, centre=(0.1, 0.1))
    mask = Image.fromarray(disc().astype(np.uint8) * 255).resize((W * 4, H * 4), Image.Resampling.NEAREST)
    mask.save(tmp_path / "scene0.png")
    painter, _ = fit_painter("foreground", [taught, other], MapOptions(mask=str(tmp_path)))
    found = painter(other)[0][1][..., 0] > 0
    assert (found == disc(centre=(0.1, 0.1))).mean() > 0.95
    pca, words = fit_painter("pca", [taught, other], MapOptions(mask=str(tmp_path)))
    black = ~pca(taught)[0][1].any(axis=-1)
    assert (black == ~disc()).mean() > 0.95
    assert "foreground" in words

    transparent = mask.convert("RGBA")
    transparent.putalpha(mask)
    transparent.save(tmp_path / "scene0.png")
    again, _ = fit_painter("foreground", [taught, other], MapOptions(mask=str(tmp_path)))
    assert (again(other)[0][1] == painter(other)[0][1]).all()


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


def test_similarity_is_the_cosine_to_the_point() -> None:
    look = scene()
    assert patch_at(look.grid, (0.5, 0.5)) == (6, 8)
    assert patch_at(look.grid, (0.999, 0.0)) == (0, 16)
    found = similarity(look.patches, look.patches[6, 8])
    assert found[6, 8] == pytest.approx(1)
    assert found[disc()].min() > found[~disc()].max()
    assert (similarity(np.zeros((2, 2, D), np.float32), look.patches[0, 0]) == 0).all()
    painter, words = fit_painter("similarity", [look, scene(1)], MapOptions((0.5, 0.5)))
    assert (painter(look)[0][1][6, 8] == SCALE[-1]).all()
    assert "row 6, column 8 of scene0.png" in words
    assert painter(scene(1))[0][1].shape == (H, W, 3)


def test_attention_has_a_layer_for_every_head() -> None:
    painter, _ = fit_painter("attention", [scene()], MapOptions())
    layers = painter(scene())
    assert [name for name, _ in layers] == ["all heads", "head 0", "head 1"]
    for _, colours in layers:
        assert (colours[disc()] == SCALE[-1]).all()
        assert (colours[~disc()] != SCALE[-1]).any(axis=-1).all()


def test_colours_run_from_dark_to_bright() -> None:
    colours = heat(np.linspace(0, 1, 64)[None], 0, 1)[0].astype(int)
    assert (colours[0] == SCALE[0]).all()
    assert (colours[-1] == SCALE[-1]).all()
    brightness = colours @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) > 0).all()
    assert (heat(np.array([[5.0]]), 5.0, 5.0) == SCALE[0]).all(), "a map without a range"
    assert enlarge(heat(np.zeros((3, 5)), 0, 1), (50, 31)).size == (50, 31)


def test_features_for_the_page_keep_their_cosines() -> None:
    """300 numbers in 256, in 8 bits: within 0.02 of the cosines of the features as they are."""
    draw = np.random.default_rng(0)
    mix = draw.standard_normal((40, 300))
    maps = [
        (draw.standard_normal((h, 9, 40)) @ mix + 0.1 * draw.standard_normal((h, 9, 300))) for h in (5, 8)
    ]
    maps = [patches.astype(np.float32) for patches in maps]
    kept = [to_int8(vectors).astype(np.float32) for vectors in keep_strongest(maps)]
    assert kept[0].shape == (5, 9, 256)
    for wanted, got in zip(maps, kept, strict=True):
        error = similarity(got, kept[0][2, 3]) - similarity(wanted, maps[0][2, 3])
        assert np.abs(error).max() < 0.02
    assert (to_int8(np.zeros((1, 1, 4), np.float32)) == 0).all()


def test_images_shrink_and_never_grow() -> None:
    assert shrink(photograph("retina"), 700).size == (700, 700)
    assert shrink(photograph("coffee"), 300).size == (300, 200)
    assert shrink(photograph("coffee"), 4096) is not None
    assert shrink(Image.new("RGB", (5000, 2)), 100).size == (100, 1)


def test_unknown_maps_are_refused() -> None:
    assert list(WHAT) == ["pca", "attention", "similarity", "foreground"]
    with pytest.raises(MisuseError, match="known: pca, attention"):
        fit_painter("depth", [scene()], MapOptions())
