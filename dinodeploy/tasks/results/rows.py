"""The row of an image in `predictions.jsonl`.

id, width, height     of the original image, in pixels as people see it
classes               [{"class", "probability"}], of a classifier
values                {name: number}, of a regressor
shares                {class: share of the image}, of a semantic segmenter
metres                {"nearest", "median", "farthest"}, of a depth head
regions               [{"class", "score", "box", …}], of a detector or a segmenter of objects:
  box                 [left, top, right, bottom] in pixels
  id, area, thing     its value in the segment image, its pixels, and False for stuff (sky, road)
  mask                {"size": [h, w], "counts": "..."}: COCO's compressed run lengths
mask, overlay, depth, segments, geotiff: names of the files beside it
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray
from dinodeploy.tasks.prediction import Prediction, Region
from dinodeploy.tasks.results.rle import encode_mask

_DECIMALS = 4  # of a box, in pixels


def row_of(id: str, size: tuple[int, int], found: Prediction) -> dict[str, Any]:
    """The row of an image of `size` (width, height) without its files."""
    row: dict[str, Any] = {"id": id, "width": size[0], "height": size[1], **found.facts}
    if found.task in ("detect", "instance", "panoptic"):
        row["regions"] = [_region(region, found.map) for region in found.regions]
    return row


def mask_of(region: Region, map: AnyArray | None) -> AnyArray | None:
    """The mask [h,w] of a region, from itself or from the map of ids; None for a box alone."""
    if region.mask is not None:
        return region.mask
    return map == region.id if map is not None and region.id else None


def _region(region: Region, map: AnyArray | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"class": region.name, "label": region.label, "score": float(region.score)}
    mask = mask_of(region, map)
    box = region.box if region.box is not None or mask is None else box_of(mask)
    if box is not None:
        facts["box"] = [round(float(side), _DECIMALS) for side in box]
    if mask is not None:
        facts |= {"area": int(np.count_nonzero(mask)), "thing": region.thing, "mask": encode_mask(mask)}
        if region.id:
            facts["id"] = region.id
    return facts


def box_of(mask: AnyArray) -> tuple[float, float, float, float]:
    """The smallest box around a mask [h,w]: left, top, right, bottom; zeros around nothing."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
