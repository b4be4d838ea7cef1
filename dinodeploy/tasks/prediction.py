"""The prediction for one image, and the options that decide it.

Shapes: h w pixels of the original image as people see it (turned by EXIF).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dinodeploy.arrays import AnyArray
from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.errors import MisuseError

# What a prediction can hold:
#   classify   facts["classes"]: the best, or all present, classes with their probabilities
#   regress    facts["values"]: numbers by name
#   segment    map: a class id per pixel, IGNORE for no class (semantic segmentation)
#   depth      map: metres per pixel, NaN where the input showed nothing
#   detect     regions: boxes
#   instance   regions: boxes, and masks or ids in `map`; map: 0 where there is no object
#   panoptic   regions: things and stuff, by id in `map`; map: 0 where there is neither
TASKS = ("classify", "segment", "depth", "detect", "instance", "panoptic", "regress")


@dataclass(frozen=True)
class Region:
    """One object or area: a detection, an instance, or a panoptic segment.

    label: class index. name: of the class. box: left, top, right, bottom in pixels of the original image.
    id: its value in the prediction's map; 0: it is not in the map.
    mask: bool [h,w] where masks overlap, so that a map cannot show them all.
    thing: False for stuff (sky, road), which has no instances.
    """

    label: int
    name: str
    score: float
    box: tuple[float, float, float, float] | None = None
    id: int = 0
    mask: AnyArray | None = None
    thing: bool = True


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image: see `TASKS` for what each task holds.

    facts: small results as plain JSON, one row of `predictions.jsonl` together with `regions`.
    map: class ids, metres or region ids [h,w].
    """

    task: str
    facts: dict[str, Any] = field(default_factory=dict)
    map: AnyArray | None = None
    regions: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}; wanted one of {', '.join(TASKS)}")


@dataclass(frozen=True)
class PredictOptions:
    """What to predict. Raises MisuseError for a value that no task takes.

    task: semantic, instance or panoptic, where the head can do several; default: the head's own.
    top: number of classes that a classifier names.
    threshold: smallest score of a detection, an instance, a segment or one of several classes of an image;
    default: the head's own.
    """

    task: str | None = None
    top: int = 5
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.task not in (None, "semantic", "instance", "panoptic"):
            raise MisuseError(f"--task {self.task!r} is unknown; wanted semantic, instance or panoptic")
        if self.top < 1:
            raise MisuseError(f"--top is {self.top}; wanted at least 1")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise MisuseError(f"--threshold is {self.threshold:g}; wanted a number from 0 to 1")


def class_name(head: HeadFacts, index: int) -> str:
    """The name of a class, or its number where the head has no names."""
    return head.classes[index] if head.classes else str(index)
