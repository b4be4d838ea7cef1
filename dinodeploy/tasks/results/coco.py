"""COCO JSON of detections and instances (`annotations.json`), and of panoptic segments (`panoptic.json`).

Ids of images and annotations begin with 1 and follow the order of the images; the id of a category is its
class index + 1. Every annotation has a score, beside the fields of COCO. `file_name` of an image is its id;
of panoptic segments it is the segment image beside the file.
Source: https://cocodataset.org/#format-data

Written line by line: a million annotations are not in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

INSTANCES, PANOPTIC = "annotations.json", "panoptic.json"
Rows = Callable[[], Iterable[dict[str, Any]]]


def write_coco(folder: Path, task: str, classes: tuple[str, ...], rows: Rows) -> None:
    """Write the file of a detector or a segmenter of objects into `folder`. rows: all rows."""
    panoptic = task == "panoptic"
    things: dict[int, bool] = {}
    with (folder / (PANOPTIC if panoptic else INSTANCES)).open("w", encoding="ascii", newline="\n") as file:
        file.write('{\n"info": ' + json.dumps({"description": "predictions of dinodeploy"}))
        file.write(',\n"images": ')
        _write_list(file, (_image(at, row) for at, row in enumerate(rows(), 1)))
        file.write(',\n"annotations": ')
        made = _panoptic(rows(), things) if panoptic else _objects(rows(), things)
        _write_list(file, made)
        file.write(',\n"categories": ')
        names = dict(enumerate(classes)) if classes else {label: str(label) for label in sorted(things)}
        _write_list(file, (_category(label, name, panoptic, things) for label, name in names.items()))
        file.write("\n}\n")


def _image(at: int, row: dict[str, Any]) -> dict[str, Any]:
    return {"id": at, "file_name": row["id"], "width": row["width"], "height": row["height"]}


def _category(label: int, name: str, panoptic: bool, things: dict[int, bool]) -> dict[str, Any]:
    facts: dict[str, Any] = {"id": label + 1, "name": name}
    return {**facts, "isthing": int(things.get(label, True))} if panoptic else facts


def _objects(rows: Iterable[dict[str, Any]], things: dict[int, bool]) -> Iterator[dict[str, Any]]:
    number = 0
    for at, row in enumerate(rows, 1):
        for region in row["regions"]:
            number += 1
            things[region["label"]] = True
            box = _box(region)
            facts = {"id": number, "image_id": at, "category_id": region["label"] + 1, "bbox": box}
            area = region.get("area", round(box[2] * box[3], 4))
            mask = {"segmentation": region["mask"]} if "mask" in region else {}
            yield {**facts, "area": area, "iscrowd": 0, "score": region["score"], **mask}


def _panoptic(rows: Iterable[dict[str, Any]], things: dict[int, bool]) -> Iterator[dict[str, Any]]:
    for at, row in enumerate(rows, 1):
        segments = []
        for region in row["regions"]:
            things[region["label"]] = region["thing"]
            facts = {"id": region["id"], "category_id": region["label"] + 1, "area": region["area"]}
            segments.append({**facts, "bbox": _box(region), "iscrowd": 0, "score": region["score"]})
        yield {"image_id": at, "file_name": row.get("segments", ""), "segments_info": segments}


def _box(region: dict[str, Any]) -> list[float]:
    """Left, top, width and height."""
    left, top, right, bottom = region["box"]
    return [left, top, round(right - left, 4), round(bottom - top, 4)]


def _write_list(file: IO[str], items: Iterable[dict[str, Any]]) -> None:
    file.write("[")
    for number, item in enumerate(items):
        file.write((",\n" if number else "\n") + json.dumps(item))
    file.write("\n]")
