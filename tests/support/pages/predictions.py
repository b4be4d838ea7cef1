"""Believable predictions for the photographs, drawn by hand, for pages and overlays.

Shapes: h w pixels of the photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dinodeploy.tasks.dense import IGNORE
from dinodeploy.tasks.prediction import Prediction, Region
from dinodeploy.tasks.results.draw import Legend
from tests.support.images.photographs import photograph

CLASSES = (
    "person", "flag", "shuttle", "curtain", "cat", "blanket", "cup", "saucer", "spoon", "table", "motorcycle",
    "bicycle", "wall", "floor", "shelf", "building", "sky", "tree", "flower", "leaf",
)  # fmt: skip
LEGEND = Legend(CLASSES)
STUFF = frozenset({"curtain", "blanket", "table", "wall", "floor", "sky", "tree"})
Shape = tuple[str, str, tuple[float, ...]]  # class, polygon or ellipse, percent of width and height

# From back to front.
SCENES: dict[str, tuple[Shape, ...]] = {
    "astronaut": (
        ("curtain", "polygon", (0, 0, 100, 0, 100, 100, 0, 100)),
        ("flag", "polygon", (0, 0, 26, 0, 22, 40, 12, 62, 0, 70)),
        ("shuttle", "polygon", (70, 0, 84, 0, 90, 40, 92, 58, 66, 52, 66, 20)),
        ("person", "polygon", (30, 14, 36, 5, 46, 3, 55, 8, 57, 24, 53, 36, 70, 46, 84, 60, 90, 100, 4, 100,
                               8, 62, 22, 48, 36, 40, 30, 26)),
    ),
    "coffee": (
        ("table", "polygon", (0, 0, 100, 0, 100, 100, 0, 100)),
        ("saucer", "ellipse", (12, 18, 86, 97)),
        ("cup", "polygon", (28, 16, 40, 6, 58, 6, 67, 18, 72, 32, 66, 44, 60, 62, 48, 68, 36, 62)),
        ("spoon", "polygon", (31, 60, 36, 58, 46, 68, 58, 64, 66, 66, 64, 80, 56, 78, 44, 74, 33, 72)),
    ),
    "chelsea": (
        ("blanket", "polygon", (0, 0, 100, 0, 100, 100, 0, 100)),
        ("cat", "polygon", (13, 18, 25, 2, 38, 10, 54, 6, 66, 0, 74, 20, 88, 40, 100, 50, 100, 100, 12, 100,
                            14, 60)),
    ),
    "motorcycle_left": (
        ("wall", "polygon", (0, 0, 100, 0, 100, 100, 0, 100)),
        ("floor", "polygon", (0, 74, 100, 68, 100, 100, 0, 100)),
        ("shelf", "polygon", (0, 4, 34, 6, 34, 52, 0, 58)),
        ("bicycle", "polygon", (68, 26, 98, 24, 99, 74, 72, 70)),
        ("motorcycle", "polygon", (16, 40, 34, 22, 56, 24, 72, 20, 78, 36, 84, 62, 74, 86, 56, 82, 34, 84, 22,
                                   90, 8, 76, 8, 54)),
    ),
    "china": (
        ("sky", "polygon", (0, 0, 100, 0, 100, 100, 0, 100)),
        ("tree", "polygon", (0, 62, 30, 56, 60, 66, 100, 56, 100, 100, 0, 100)),
        ("building", "polygon", (11, 34, 32, 8, 55, 32, 53, 44, 60, 58, 64, 78, 70, 94, 14, 96, 18, 58)),
    ),
    "flower": (
        ("leaf", "polygon", (0, 0, 100, 0, 100, 100, 0, 100)),
        ("flower", "ellipse", (27, 20, 70, 84)),
    ),
}  # fmt: skip


def layers(name: str) -> list[tuple[str, NDArray[np.bool_]]]:
    """(class, mask [h,w]) of each shape of a scene, from back to front."""
    width, height = photograph(name).size
    found = []
    for label, kind, percent in SCENES[name]:
        mask = Image.new("1", (width, height))
        points = [part / 100 * (width, height)[at % 2] for at, part in enumerate(percent)]
        getattr(ImageDraw.Draw(mask), kind)(points, fill=1)
        found.append((label, np.asarray(mask)))
    return found


def segmented(name: str) -> Prediction:
    """A class for every pixel."""
    parts = layers(name)
    classes = np.full(parts[0][1].shape, IGNORE, np.int64)
    for label, mask in parts:
        classes[mask] = CLASSES.index(label)
    ids, counts = np.unique(classes, return_counts=True)
    shares = {CLASSES[id]: count / classes.size for count, id in sorted(zip(counts, ids, strict=True))[::-1]}
    return Prediction("segment", {"shares": shares}, classes)


def objects(name: str, task: str = "panoptic") -> Prediction:
    """Segments with ids, or boxes, of a scene; boxes have no stuff."""
    parts = layers(name)
    ids = np.zeros(parts[0][1].shape, np.int64)
    regions = []
    for number, (label, mask) in enumerate(parts, 1):
        ids[mask] = number
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        corners = tuple(float(side) for side in box)
        is_thing = label not in STUFF
        if is_thing or task == "panoptic":
            score = 0.99 - 0.11 * (number - 1)
            id = 0 if task == "detect" else number
            regions.append(Region(CLASSES.index(label), label, score, corners, id=id, thing=is_thing))  # type: ignore[arg-type]
    regions.sort(key=lambda region: -region.score)
    return Prediction(task, {}, None if task == "detect" else ids, tuple(regions))


def classified(name: str) -> Prediction:
    """Five classes with their probabilities."""
    labels = [label for label, _ in layers(name)][::-1]
    labels += [label for label in CLASSES if label not in labels][: 5 - len(labels)]
    shares = (0.8312, 0.0921, 0.0413, 0.0107, 0.0004)
    found = [{"class": label, "probability": share} for label, share in zip(labels, shares, strict=False)]
    return Prediction("classify", {"classes": found})


def measured_depth() -> Prediction:
    """Metres of `motorcycle_left`, from the disparity that comes with it; NaN where it was not measured.

    Focal length 994.978 px, baseline 0.193001 m, offset of the principal points 31.086 px: the values that
    scikit-image states beside the file (`skimage.data.stereo_motorcycle`).
    """
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    disparity = np.load(Path(spec.origin).parent / "data/motorcycle_disp.npz")["arr_0"]
    known = np.isfinite(disparity) & (disparity > 0)
    metres = np.where(known, 994.978 * 0.193001 / (np.where(known, disparity, 0) + 31.086), np.nan)
    inside = metres[known]
    facts = {"nearest": inside.min(), "median": np.median(inside), "farthest": inside.max()}
    return Prediction("depth", {"metres": {k: float(v) for k, v in facts.items()}}, metres.astype(np.float32))


def predictions(task: str, names: Sequence[str] = tuple(SCENES)) -> list[tuple[str, Prediction]]:
    """(photograph, its prediction) for a task of `TASKS`."""
    if task == "depth":
        return [("motorcycle_left", measured_depth())]
    makers = {"segment": segmented, "classify": classified}
    return [(name, makers[task](name) if task in makers else objects(name, task)) for name in names]
