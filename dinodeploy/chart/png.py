"""Write a drawing as PNG with Pillow, on light paper, at twice its size for sharp screens and print.

Lines and areas are drawn four times as large and shrunk, which smooths their edges; text is drawn last, at
its final size.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

from PIL import Image, ImageColor, ImageDraw, ImageFont

from dinodeploy.chart.shapes import INKS, Dot, Drawing, Line, Point, Rect, Shape, Text

SCALE = 2  # pixels of the file for one of the drawing
OVERSAMPLING = 2  # pixels drawn for one of the file
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}  # Pillow's names, on the baseline

Colour = tuple[int, ...]


def to_png(drawing: Drawing) -> bytes:
    """RGB PNG of `SCALE` times the drawing's size."""
    size = (round(drawing.width * SCALE), round(drawing.height * SCALE))
    large = Image.new("RGB", (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING), _colour("paper"))
    pen = ImageDraw.Draw(large)
    for shape in drawing.shapes:
        _draw(pen, shape, SCALE * OVERSAMPLING)
    image = large.resize(size, Image.Resampling.BOX)
    pen = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        if isinstance(shape, Text):
            _write(pen, shape)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _colour(ink: str, opacity: float = 1.0) -> Colour:
    """The ink's colour; a translucent one is mixed with the paper below it."""
    ink_rgb, paper_rgb = (ImageColor.getrgb(INKS[name][0]) for name in (ink, "paper"))
    return tuple(round(opacity * a + (1 - opacity) * b) for a, b in zip(ink_rgb, paper_rgb, strict=True))


def _draw(pen: ImageDraw.ImageDraw, shape: Shape, scale: int) -> None:
    if isinstance(shape, Line):
        width = max(1, round(shape.width * scale))
        for stroke in _strokes(shape):
            pen.line([(x * scale, y * scale) for x, y in stroke], _colour(shape.ink), width, joint="curve")
    elif isinstance(shape, Rect):
        box = (shape.x, shape.y, shape.x + shape.width, shape.y + shape.height)
        left, top, right, bottom = (round(side * scale) for side in box)
        if right > left and bottom > top:  # Pillow's right and bottom are inside
            pen.rectangle((left, top, right - 1, bottom - 1), _colour(shape.ink, shape.opacity))
    elif isinstance(shape, Dot):
        pen.circle((shape.x * scale, shape.y * scale), shape.radius * scale, _colour(shape.ink))


def _strokes(line: Line) -> Iterator[tuple[Point, ...]]:
    """The line itself, or its dashes: Pillow draws none."""
    if not line.dash:
        yield line.points
        return
    travelled = 0.0
    for (x0, y0), (x1, y1) in zip(line.points, line.points[1:], strict=False):
        length = math.hypot(x1 - x0, y1 - y0)
        at = 0.0
        while at < length:
            phase = (travelled + at) % (2 * line.dash)
            end = min(length, at + max(line.dash - phase % line.dash, 1e-3))
            if phase < line.dash:
                a, b = at / length, end / length
                yield (x0 + a * (x1 - x0), y0 + a * (y1 - y0)), (x0 + b * (x1 - x0), y0 + b * (y1 - y0))
            at = end
        travelled += length


def _write(pen: ImageDraw.ImageDraw, shape: Text) -> None:
    font = ImageFont.load_default(shape.size * SCALE)
    for shift in (0, 1) if shape.bold else (0,):  # Pillow's one font has no bold: print it twice
        at = shape.x * SCALE + shift, shape.y * SCALE
        pen.text(at, shape.text, _colour(shape.ink), font, ANCHORS[shape.anchor])
