"""Rows of predictions.jsonl."""

from __future__ import annotations

import numpy as np

from dinodeploy.tasks.prediction import Prediction, Region
from dinodeploy.tasks.results.rows import box_of, mask_of, row_of
from tests.support.decode_rle import decode_mask


def test_a_box_is_rounded_and_a_mask_is_encoded() -> None:
    map = np.array([[0, 1, 1], [0, 1, 0]])
    regions = (Region(2, "cup", 0.5, (0.123456, 1, 2, 3)), Region(3, "sky", 0.9, id=1, thing=False))
    row = row_of("a.jpg", (3, 2), Prediction("panoptic", {}, map, regions))
    boxed, area = row["regions"]
    assert boxed == {"class": "cup", "label": 2, "score": 0.5, "box": [0.1235, 1, 2, 3]}
    assert area["box"] == [1, 0, 3, 2], "the smallest box around the mask"
    assert (area["id"], area["area"], area["thing"]) == (1, 3, False)
    assert (decode_mask(area["mask"]) == (map == 1)).all()


def test_a_mask_of_its_own_comes_before_the_map() -> None:
    own = np.array([[True, False]])
    assert mask_of(Region(0, "a", 1.0, id=1, mask=own), np.array([[0, 1]])) is own
    assert mask_of(Region(0, "a", 1.0), np.array([[0, 1]])) is None


def test_nothing_has_an_empty_box() -> None:
    assert box_of(np.zeros((2, 2), bool)) == (0, 0, 0, 0)
