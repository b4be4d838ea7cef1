"""Maps as images: their size, the mark on the asked patch, the scale, the dimmed background."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dinodeploy.visualize.drawn import DIMMED, draw_layer, draw_over, enlarge
from dinodeploy.visualize.heat import Range, heat
from dinodeploy.visualize.maps import FOREGROUND, Layer

MAP = heat(np.full((6, 9), 0.5), 0, 1)
SIZE = (450, 300)  # patches of 50 pixels


def test_a_map_has_the_size_of_its_image() -> None:
    assert enlarge(MAP, (50, 31)).size == (50, 31)
    assert draw_layer(Layer("PCA", MAP), (451, 299)).size == (451, 299)


def test_the_asked_patch_is_framed() -> None:
    plain = np.asarray(draw_layer(Layer("similarity", MAP), SIZE)).astype(int)
    marked = np.asarray(draw_layer(Layer("similarity", MAP, mark=(2, 3)), SIZE)).astype(int)
    changed = np.argwhere((plain != marked).any(axis=-1))
    assert (changed.min(axis=0) >= [95, 145]).all()
    assert (changed.max(axis=0) <= [155, 205]).all()
    assert (marked[100, 160] == 255).all(), "white on the edge of the patch"
    assert (marked[98, 160] == 0).all(), "black around it"
    assert (marked[125, 175] == plain[125, 175]).all(), "the patch itself can be seen"


@pytest.mark.parametrize("mark", [(0, 0), (5, 8)])
def test_a_patch_at_the_border_is_framed(mark: tuple[int, int]) -> None:
    made = np.asarray(draw_layer(Layer("similarity", MAP, mark=mark), SIZE))
    assert (made == 255).all(axis=-1).sum() > 4 * 40


def test_values_have_a_scale_in_the_image() -> None:
    plain = np.asarray(draw_layer(Layer("similarity", MAP), SIZE)).astype(int)
    scaled = np.asarray(draw_layer(Layer("similarity", MAP, Range("cosine", -0.5, 1.0)), SIZE)).astype(int)
    changed = (plain != scaled).any(axis=-1)
    assert changed[200:, :225].any()
    assert not changed[:120].any()
    assert not changed[:, 225:].any(), "at most half of the width"


def test_a_background_is_dimmed_and_a_foreground_stays() -> None:
    mask = np.zeros((6, 9, 3), np.uint8)
    mask[2:4, 3:6] = 255
    layer, image = Layer(FOREGROUND, mask), Image.new("RGB", SIZE, (200, 120, 40))
    made = np.asarray(draw_over(layer, image))
    assert (made[150, 225] == (200, 120, 40)).all()
    assert (made[10, 10] == np.round(np.array([200, 120, 40]) * DIMMED)).all()
    assert set(np.unique(np.asarray(draw_layer(layer, SIZE)))) == {0, 255}, "the file is a mask"
