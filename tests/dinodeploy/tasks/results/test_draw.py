"""Overlays: colours where objects are, the image elsewhere, names and a legend that fit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dinodeploy.tasks.dense import IGNORE
from dinodeploy.tasks.prediction import Prediction, Region
from dinodeploy.tasks.results.draw import Legend, draw, region_colours

LEGEND = Legend(("sky", "cup", "tree"))
GREY = Image.new("RGB", (400, 300), (120, 120, 120))


def test_a_class_is_half_transparent_and_other_pixels_stay() -> None:
    map = np.full((300, 400), IGNORE, np.int64)
    map[:100] = 1
    made = np.asarray(draw(GREY, Prediction("segment", {"shares": {"cup": 1.0}}, map), LEGEND))
    mixed = (np.array(LEGEND.colour(1)) + 120) / 2
    assert np.abs(made[50, 200] - mixed).max() <= 1
    assert (made[150, 380] == 120).all()
    assert (made[200:, :120] != 120).any(), "the legend"


def test_boxes_and_names_are_drawn_in_the_image() -> None:
    regions = (Region(1, "cup", 0.87, (20, 40, 200, 250)), Region(1, "cup", 0.5, (390, 0, 400, 10)))
    made = np.asarray(draw(GREY, Prediction("detect", regions=regions), LEGEND))
    assert (made[150, 20] == LEGEND.colour(1)).all()
    assert (made[249, 100] == LEGEND.colour(1)).all()
    assert (made[39, 22] == LEGEND.colour(1)).all(), "the name stands above its box"
    assert (made[150, 300] == 120).all()


def test_masks_have_an_edge_and_objects_of_a_class_differ() -> None:
    map = np.zeros((300, 400), np.int64)
    map[50:150, 50:150], map[50:150, 200:300] = 1, 2
    regions = (Region(2, "tree", 0.9, id=1), Region(2, "tree", 0.8, id=2))
    made = np.asarray(draw(GREY, Prediction("instance", {}, map, regions), LEGEND)).astype(int)
    first, second = region_colours(regions, LEGEND)
    assert first != second
    assert (made[100, 50] == first).all()
    assert (made[100, 200] == second).all()
    assert np.abs(made[100, 100] - (np.array(first) + 120) / 2).max() <= 1


def first_of_legend(found: Prediction) -> int:
    """The class whose colour is highest in the lower left corner, which objects leave free."""
    made = np.asarray(draw(GREY, found, LEGEND))[200:, :150].reshape(-1, 3).tolist()
    rows = {
        label: made.index(list(LEGEND.colour(label)))
        for label in range(3)
        if list(LEGEND.colour(label)) in made
    }
    return min(rows, key=lambda label: rows[label])


def test_the_legend_has_the_largest_area_first() -> None:
    """Of a map, of ids, of masks that overlap, and of boxes; whatever the order of the regions."""
    map = np.zeros((300, 400), np.int64)
    map[:20, 200:220], map[20:150, 200:] = 1, 2
    assert first_of_legend(Prediction("segment", {"shares": {"cup": 0.1, "tree": 0.9}}, map)) == 2
    small, large = map == 1, map == 2
    for regions, ids in (
        ((Region(1, "cup", 0.9, id=1), Region(2, "tree", 0.8, id=2)), map),
        ((Region(1, "cup", 0.9, mask=small), Region(2, "tree", 0.8, mask=large)), None),
        ((Region(1, "cup", 0.9, (200, 0, 220, 20)), Region(2, "tree", 0.8, (200, 20, 400, 150))), None),
    ):
        assert first_of_legend(Prediction("instance", {}, ids, regions)) == 2
    many = tuple(Region(1, "cup", 0.9, (200 + at, 0, 203 + at, 3)) for at in range(9))
    assert (
        first_of_legend(Prediction("detect", regions=(*many, Region(2, "tree", 0.1, (200, 20, 400, 150)))))
        == 2
    )


def test_masks_that_overlap_are_drawn() -> None:
    mask = np.zeros((300, 400), bool)
    mask[50:150, 50:150] = True
    found = Prediction("instance", regions=(Region(0, "sky", 0.9, mask=mask),))
    assert (np.asarray(draw(GREY, found, LEGEND))[100, 100] != 120).any()


def test_depth_rises_in_brightness_and_unknown_pixels_are_grey() -> None:
    metres = np.tile(np.linspace(1, 9, 400, dtype=np.float32), (300, 1))
    metres[:, :10] = np.nan
    made = np.asarray(draw(GREY, Prediction("depth", {}, metres), LEGEND).convert("L")).astype(int)
    assert (made[20, :10] == 64).all()
    assert (np.diff(made[20, 10:]) >= -1).all()


def test_an_image_that_was_decoded_smaller_is_drawn_on() -> None:
    map = np.ones((600, 800), np.int64)
    regions = (Region(1, "cup", 0.9, (0, 0, 800, 600), id=1),)
    assert draw(GREY, Prediction("instance", {}, map, regions), LEGEND).size == (400, 300)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (3000, 40), (40, 3000)])
def test_any_image_can_be_drawn_on(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    box = (0.0, 0.0, float(size[0]), float(size[1]))
    everything = (
        Prediction("detect", regions=(Region(0, "a name that is longer than the image" * 3, 0.5, box),)),
        Prediction("segment", {"shares": {"sky": 1.0}}, np.zeros(size[::-1], np.int64)),
        Prediction("depth", {}, np.full(size[::-1], np.nan, np.float32)),
        Prediction("classify", {"classes": [{"class": "sky", "probability": 1.0}]}),
        Prediction("panoptic", {}, np.zeros(size[::-1], np.int64)),
    )
    for found in everything:
        assert draw(image, found, Legend()).size == size
