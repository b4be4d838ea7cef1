"""Similarity, attention and PCA maps: values whose right answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.visualize.maps import (
    SCALE,
    WHAT,
    MapOptions,
    enlarge,
    fit_painter,
    heat,
    patch_at,
    similarity,
)
from tests.support.images.scenes import D, H, W, disc, scene


def test_the_same_feature_has_the_same_colour_in_every_image() -> None:
    a, b = scene(0), scene(1)
    b.patches[2, 3] = a.patches[6, 8]
    painter, words = fit_painter("pca", [a, b], MapOptions())
    assert (painter(a)[0][1][6, 8] == painter(b)[0][1][2, 3]).all()
    assert "%" in words


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


def test_unknown_maps_are_refused() -> None:
    assert list(WHAT) == ["pca", "attention", "similarity", "foreground"]
    with pytest.raises(MisuseError, match="known: pca, attention"):
        fit_painter("depth", [scene()], MapOptions())


def test_colours_run_from_dark_to_bright() -> None:
    colours = heat(np.linspace(0, 1, 64)[None], 0, 1)[0].astype(int)
    assert (colours[0] == SCALE[0]).all()
    assert (colours[-1] == SCALE[-1]).all()
    brightness = colours @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) > 0).all()
    assert (heat(np.array([[5.0]]), 5.0, 5.0) == SCALE[0]).all(), "a map without a range"
    assert enlarge(heat(np.zeros((3, 5)), 0, 1), (50, 31)).size == (50, 31)
