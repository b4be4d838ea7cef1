"""Features for the page keep their cosines."""

from __future__ import annotations

import numpy as np

from dinodeploy.visualize.maps import similarity
from dinodeploy.visualize.page import keep_strongest, to_int8


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
