"""What a picture is made of. Lengths are in pixels of the finished picture, y grows downwards.

Inks are names: a writer knows their colours on light and on dark paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]

# ink -> (on light paper, on dark paper)
INKS: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14171c"),
    "text": ("#1c2128", "#e6e9ee"),
    "faint": ("#667080", "#98a2b3"),
    "grid": ("#e7eaee", "#272c35"),
    "alarm": ("#c8102e", "#ff6b78"),
    "good": ("#1a7f37", "#56d27c"),
    "blue": ("#1f5fd0", "#7fb0ff"),
    "orange": ("#c05800", "#ffb066"),
    "green": ("#12805c", "#5fd6a8"),
    "purple": ("#7a3fc4", "#c9a6ff"),
    "sky": ("#0b7795", "#57b8d6"),
}


@dataclass(frozen=True)
class Line:
    """A polyline. `dash`: lengths of stroke and gap, 0 for none."""

    points: tuple[Point, ...]
    ink: str
    width: float = 1.0
    dash: float = 0.0


@dataclass(frozen=True)
class Rect:
    """A filled rectangle; `title` is shown where a viewer can point at it."""

    x: float
    y: float
    width: float
    height: float
    ink: str
    opacity: float = 1.0
    title: str = ""


@dataclass(frozen=True)
class Dot:
    """A filled circle around (x, y)."""

    x: float
    y: float
    radius: float
    ink: str
    title: str = ""


@dataclass(frozen=True)
class Text:
    """One line; y is its baseline."""

    x: float
    y: float
    text: str
    ink: str = "text"
    size: float = 12.0
    anchor: Anchor = "start"
    bold: bool = False


Shape = Line | Rect | Dot | Text


@dataclass(frozen=True)
class Drawing:
    """A finished picture. Later shapes cover earlier ones."""

    width: float
    height: float
    title: str
    shapes: tuple[Shape, ...]
