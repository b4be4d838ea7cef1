"""Similarity, attention and PCA maps: values whose right answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.visualize.heat import SCALE, Range
from dinodeploy.visualize.maps import WHAT, MapOptions, fit_painter, patch_at, similarity
from tests.support.images.scenes import D, H, W, disc, scene


def test_the_same_feature_has_the_same_colour_in_every_image() -> None:
    a, b = scene(0), scene(1)
    b.patches[2, 3] = a.patches[6, 8]
    painter, words = fit_painter("pca", [a, b], MapOptions())
    assert (painter(a)[0].colours[6, 8] == painter(b)[0].colours[2, 3]).all()
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
    assert (painter(look)[0].colours[6, 8] == SCALE[-1]).all()
    assert "row 6, column 8 of scene0.png" in words
    other = painter(scene(1))[0]
    assert other.colours.shape == (H, W, 3)
    assert (painter(look)[0].mark, other.mark) == ((6, 8), None), "only the image that was asked has a mark"
    assert painter(look)[0].range == other.range
    assert painter(look)[0].range == Range("cosine", pytest.approx(found.min(), abs=0.2), pytest.approx(1))


def test_attention_has_a_layer_for_every_head() -> None:
    painter, _ = fit_painter("attention", [scene()], MapOptions())
    layers = painter(scene())
    assert [layer.name for layer in layers] == ["all heads", "head 0", "head 1"]
    for colours in (layer.colours for layer in layers):
        assert (colours[disc()] == SCALE[-1]).all()
        assert (colours[~disc()] != SCALE[-1]).any(axis=-1).all()
    assert [layer.range.ends for layer in layers if layer.range] == [
        ("0 %", "225 %"),  # the scene's attention is no share: 3 and 1.5, whose mean is 2.25
        ("0 %", "300 %"),
        ("0 %", "150 %"),
    ]


def test_unknown_maps_are_refused() -> None:
    assert list(WHAT) == ["pca", "attention", "similarity", "foreground"]
    with pytest.raises(MisuseError, match="known: pca, attention"):
        fit_painter("depth", [scene()], MapOptions())
