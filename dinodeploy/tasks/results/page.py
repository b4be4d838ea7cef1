"""One HTML page of predictions (template `pages/predict.html`); it works from a file, offline.

Each image is a JPEG thumbnail with a small map of its classes or objects, drawn by the page: opacity, classes
and the smallest score can be changed. Needs the extra `pages`.

Shapes: h w pixels of the image.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray
from dinodeploy.errors import printable
from dinodeploy.pages import jpeg_uri, render_page
from dinodeploy.tasks.prediction import Prediction
from dinodeploy.tasks.results.draw import Legend
from dinodeploy.tasks.results.rows import box_of, mask_of
from dinodeploy.visualize.heat import heat

SIDE = 640  # pixels of the longer side of a thumbnail
_QUALITY = 82
LISTED = 5  # classes or objects below an image; the rest is counted
_FLATTEST, _TALLEST = 2.4, 0.5  # width over height of a frame; other images have bars beside them
_OBJECTS = ("detect", "instance", "panoptic")
HEADINGS = {
    "classify": "Classes",
    "regress": "Values",
    "segment": "Semantic segmentation",
    "depth": "Depth",
    "detect": "Detections",
    "instance": "Instances",
    "panoptic": "Panoptic segments",
}


def page_item(image: Image.Image, id: str, found: Prediction, legend: Legend) -> dict[str, Any]:
    """What the page needs of one image. image: RGB, of any size."""
    width, height = image.size
    original = found.map.shape[::-1] if found.map is not None else (width, height)
    thumbnail = image.copy()
    thumbnail.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    item: dict[str, Any] = {
        "id": printable(id),
        "name": printable(PurePosixPath(id).name or id),
        "task": found.task,
        "size": list(thumbnail.size),
        "image": jpeg_uri(thumbnail, _QUALITY),
        "map": None,
        "heat": None,
        "perPixel": found.task == "segment",
        "regions": [],
    }
    if found.task == "segment" and found.map is not None:
        item["map"] = _grey_uri(found.map, thumbnail.size)
        shares = found.facts["shares"].items()
        item["classes"] = [
            {"label": legend.index(name), "name": name, "share": share} for name, share in shares
        ]
    elif found.task == "classify":
        item["classes"] = [
            {"label": legend.index(one["class"]), "name": one["class"], "share": one["probability"]}
            for one in found.facts["classes"]
        ]
    elif found.task == "regress":
        item["values"] = found.facts["values"]
    elif found.task == "depth" and found.map is not None:
        item |= {"metres": found.facts["metres"], "heat": _heat_uri(found.map, thumbnail.size)}
    else:
        item["regions"] = [_region(region, found.map, original) for region in found.regions]
        if any(mask_of(region, found.map) is not None for region in found.regions):
            item["map"] = _grey_uri(_numbered(found, (original[1], original[0])), thumbnail.size)
    return item


def render_predictions(task: str, items: Sequence[dict[str, Any]], count: int, legend: Legend) -> str:
    """The HTML document of `items`, the first of `count` images."""
    tasks = {item["task"] for item in items} or {task}
    task = tasks.pop() if len(tasks) == 1 else task
    more = f" The first {len(items)} are shown." if count > len(items) else ""
    data = {
        "items": [{**item, "lines": _lines(item)} for item in items],
        "listed": LISTED,
        "classes": _classes(items),
        "colours": legend.hexadecimal,
        "drawn": any(item["map"] or item["heat"] for item in items),
        "boxed": any(region["box"] for item in items for region in item["regions"]),
        "scored": any(item["regions"] for item in items),
        "counts": "images" if task in ("segment", "classify") else "objects",
    }
    return render_page(
        "predict",
        heading=HEADINGS.get(task, "Predictions"),
        words=f"{count:,} image{'' if count == 1 else 's'}.{more}",
        shown="Depth" if any(item["heat"] for item in items) else "Prediction",
        data=data,
        shapes=[min(_FLATTEST, max(_TALLEST, item["size"][0] / item["size"][1])) for item in items],
    )


def _lines(item: dict[str, Any]) -> list[dict[str, Any]]:
    """What an image shows, in words: name and text, label and share (a bar's length) where there are such."""
    if "metres" in item:
        metres = item["metres"]
        return [{"name": name, "text": f"{metres[name]:.2f} m"} for name in ("nearest", "median", "farthest")]
    if "values" in item:
        return [{"name": name, "text": f"{value:.4g}"} for name, value in item["values"].items()]
    if "classes" in item:
        return [{**one, "text": f"{100 * one['share']:.1f} %"} for one in item["classes"]]
    regions = sorted(item["regions"], key=lambda region: -region["score"])
    return [
        {
            **{key: one[key] for key in ("label", "name", "score")},
            "share": one["score"],
            "text": f"{one['score']:.2f}",
        }
        for one in regions
    ]


def _classes(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The classes that occur with the number of their objects or images.

    Those with the largest area come first, where a class has one; else the most frequent.
    """
    counts: Counter[int] = Counter()
    areas: Counter[int] = Counter()
    names: dict[int, str] = {}
    for item in items:
        best = item.get("classes", ())[:1] if item["task"] == "classify" else item.get("classes", ())
        for one in (*best, *item["regions"]):
            counts[one["label"]] += 1
            names[one["label"]] = one["name"]
            if item["task"] == "segment":
                areas[one["label"]] += one["share"]
    order = sorted(counts, key=lambda label: (-areas[label], -counts[label]))
    return [{"label": label, "name": names[label], "count": counts[label]} for label in order]


def _region(region: Any, map: AnyArray | None, size: tuple[int, int]) -> dict[str, Any]:
    box = region.box
    if box is None and (mask := mask_of(region, map)) is not None:
        box = box_of(mask)
    sides = None if box is None else [round(float(side) / size[at % 2], 5) for at, side in enumerate(box)]
    facts = {"label": region.label, "name": region.name, "score": round(region.score, 4)}
    return {**facts, "box": sides, "thing": region.thing}


def _numbered(found: Prediction, shape: tuple[int, int]) -> AnyArray:
    """For each pixel the number of its region among the first 255, from 1 on; 0 for none."""
    numbers = np.zeros(shape, np.uint8)
    for number, region in enumerate(found.regions[:255], 1):
        if (mask := mask_of(region, found.map)) is not None:
            numbers[mask] = number
    return numbers


def _grey_uri(values: AnyArray, size: tuple[int, int]) -> str:
    """Whole numbers up to 255 [h,w] as a grey PNG of `size` (width, height)."""
    image = Image.fromarray(values.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _heat_uri(metres: AnyArray, size: tuple[int, int]) -> str:
    known = np.isfinite(metres)
    low, high = (float(metres[known].min()), float(metres[known].max())) if known.any() else (0.0, 1.0)
    colours = heat(np.where(known, metres, low), low, high)
    colours[~known] = 64
    return jpeg_uri(Image.fromarray(colours).resize(size, Image.Resampling.BILINEAR), _QUALITY)
