"""The page of maps: features keep their cosines, scales have their values, many images are bounded."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.visualize import page
from dinodeploy.visualize.maps import MapOptions, fit_painter, similarity
from dinodeploy.visualize.page import keep_strongest, render_maps, to_int8
from tests.support.images.scenes import scene


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


def rendered(what: str, count: int) -> str:
    looks = [scene(seed) for seed in range(count)]
    painter, words = fit_painter(what, looks, MapOptions())
    return render_maps(what, looks, [painter(look) for look in looks], words, "vit_small")


def test_values_of_a_scale_are_on_the_page() -> None:
    assert "<em>cosine</em>" in rendered("similarity", 2)
    assert "<em>attention share</em><span>0 %</span><i></i><span>225 %</span>" in rendered("attention", 2)
    assert "<em></em>" in rendered("pca", 2), "colours have no scale"


def test_a_page_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rendered("pca", 5).count("<canvas") == 5
    monkeypatch.setattr(page, "PAGE_BYTES", 10_000)
    text = rendered("pca", 5)
    shown = text.count("<canvas")
    assert 1 <= shown < 5
    assert f"The first {shown} of 5 images are shown." in text
