"""Losses and kNN accuracies over the iterations, as one PNG: a panel a curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

Point = tuple[float, float]
Records = Sequence[dict[str, Any]]

WIDTH, HEIGHT = 420, 170  # of a panel, in pixels
LEFT, TOP, RIGHT, BOTTOM = 62, 26, 14, 24  # around the plot
COLUMNS = 2
INK, PALE, LINE = "#24292f", "#d0d7de", "#0969da"


def draw_curves(metrics: Records, evaluations: Records, path: Path) -> None:
    """Write the curves of every loss and of the kNN accuracies; nothing where no record is yet."""
    curves = {
        **_curves(metrics, [name for name in _names(metrics) if name.endswith("loss")]),
        **_curves(evaluations, [name for name in _names(evaluations) if name.endswith(("top1", "mAP"))]),
    }
    if not curves:
        return
    rows = -(-len(curves) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * WIDTH, rows * HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, points) in enumerate(curves.items()):
        row, column = divmod(number, COLUMNS)
        _panel(draw, column * WIDTH, row * HEIGHT, name, points)
    sheet.save(path)


def _names(records: Records) -> list[str]:
    return list(records[-1]) if records else []


def _curves(records: Records, names: list[str]) -> dict[str, list[Point]]:
    return {name: [(float(r["iteration"]), float(r[name])) for r in records if name in r] for name in names}


def _panel(draw: ImageDraw.ImageDraw, x0: int, y0: int, name: str, points: list[Point]) -> None:
    """One curve with its name, its ends and its extremes in numbers."""
    (first, last), (low, high) = ((min(values), max(values)) for values in zip(*points, strict=True))
    left, right = x0 + LEFT, x0 + WIDTH - RIGHT
    top, bottom = y0 + TOP, y0 + HEIGHT - BOTTOM

    def place(point: Point) -> Point:
        x = left + (right - left) * (point[0] - first) / ((last - first) or 1)
        y = bottom - (bottom - top) * (point[1] - low) / ((high - low) or 1)
        return x, y

    draw.rectangle((left, top, right, bottom), outline=PALE)
    draw.text((left, y0 + 8), f"{name}  {points[-1][1]:.4g}", fill=INK)
    draw.text((x0 + 6, top - 4), f"{high:.4g}", fill=INK)
    draw.text((x0 + 6, bottom - 8), f"{low:.4g}", fill=INK)
    draw.text((left, bottom + 6), f"{first:.0f}", fill=INK)
    draw.text((right, bottom + 6), f"{last:.0f}", fill=INK, anchor="ra")
    if len(points) > 1:
        draw.line([place(point) for point in points], fill=LINE, width=2)
    else:
        x, y = place(points[0])
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=LINE)
