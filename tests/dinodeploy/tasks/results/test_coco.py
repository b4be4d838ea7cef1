"""COCO JSON: ids, boxes, masks and panoptic segments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.tasks.prediction import Prediction, Region
from dinodeploy.tasks.results.coco import write_coco
from dinodeploy.tasks.results.rows import row_of
from tests.support.decode_rle import decode_mask

MAP = np.zeros((4, 6), np.int64)
MAP[1:3, 2:5], MAP[3] = 1, 2


def rows(task: str, regions: tuple[Region, ...]) -> list[dict[str, Any]]:
    nothing = row_of("empty.jpg", (6, 4), Prediction(task, {}, np.zeros((4, 6), np.int64)))
    return [nothing, {**row_of("a.jpg", (6, 4), Prediction(task, {}, MAP, regions)), "segments": "2_a.png"}]


def test_boxes_without_masks(tmp_path: Path) -> None:
    found = rows("detect", (Region(1, "cup", 0.75, (1, 0.5, 4, 3)),))
    write_coco(tmp_path, "detect", ("sky", "cup"), lambda: found)
    written = json.loads((tmp_path / "annotations.json").read_text())
    assert written["images"][1] == {"id": 2, "file_name": "a.jpg", "width": 6, "height": 4}
    assert written["categories"] == [{"id": 1, "name": "sky"}, {"id": 2, "name": "cup"}]
    (one,) = written["annotations"]
    assert one == {
        **{"id": 1, "image_id": 2, "category_id": 2, "bbox": [1, 0.5, 3, 2.5]},
        **{"area": 7.5, "iscrowd": 0, "score": 0.75},
    }


def test_instances_have_masks(tmp_path: Path) -> None:
    found = rows("instance", (Region(0, "0", 0.5, id=1), Region(4, "4", 0.25, id=2)))
    write_coco(tmp_path, "instance", (), lambda: found)
    written = json.loads((tmp_path / "annotations.json").read_text())
    assert [one["id"] for one in written["categories"]] == [1, 5], "the classes that occur, without names"
    for one in written["annotations"]:
        assert (decode_mask(one["segmentation"]) == (one["id"] == MAP)).all()
    assert written["annotations"][0]["bbox"] == [2, 1, 3, 2]
    assert written["annotations"][0]["area"] == 6


def test_panoptic_segments_name_their_image(tmp_path: Path) -> None:
    found = rows("panoptic", (Region(0, "cup", 0.5, id=1), Region(1, "sky", 0.25, id=2, thing=False)))
    write_coco(tmp_path, "panoptic", ("cup", "sky"), lambda: found)
    written = json.loads((tmp_path / "panoptic.json").read_text())
    assert [one["isthing"] for one in written["categories"]] == [1, 0]
    empty, full = written["annotations"]
    assert empty["segments_info"] == []
    assert (full["image_id"], full["file_name"]) == (2, "2_a.png")
    assert [(one["id"], one["category_id"], one["area"]) for one in full["segments_info"]] == [
        (1, 1, 6),
        (2, 2, 6),
    ]
