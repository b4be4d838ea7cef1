"""Draw a prediction over its image: coloured areas, boxes with names and scores, and a legend.

A class has the same colour in class images, overlays, pages and videos (`dense.palette`).

Shapes: h w pixels of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dinodeploy.arrays import AnyArray, ByteArray
from dinodeploy.errors import printable
from dinodeploy.tasks.dense import IGNORE, OPACITY, palette
from dinodeploy.tasks.prediction import Prediction, Region
from dinodeploy.visualize.maps import heat

Colour = tuple[int, int, int]

_SMALLEST_FONT, _PIXELS_PER_FONT = 11, 45  # font size in pixels, and short sides of the image per font size
_WIDEST, _HIGHEST = 0.5, 0.6  # shares of the image that a legend may take
_MOST_LINES = 12
_CARD, _INK = (18, 22, 28), (240, 243, 246)
_CARD_OPACITY = 0.78
_LONGEST = 28  # signs of a name
_BAR = 9  # font sizes that the colour bar of depths is wide


@dataclass(frozen=True)
class Legend:
    """Names and colours of classes."""

    classes: tuple[str, ...] = ()

    @cached_property
    def _colours(self) -> list[Colour]:
        flat = palette()
        return [(flat[at], flat[at + 1], flat[at + 2]) for at in range(0, len(flat), 3)]

    def colour(self, label: int) -> Colour:
        """Of a class index; they repeat after 255."""
        return self._colours[label % IGNORE]

    @property
    def hexadecimal(self) -> list[str]:
        """The colours of all class indices as #rrggbb."""
        return ["#{:02x}{:02x}{:02x}".format(*self.colour(label)) for label in range(IGNORE)]

    def index(self, name: str) -> int:
        """The class index of a name."""
        return self._indices.get(name, int(name) if name.isdecimal() else 0)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.classes)}


def draw(image: Image.Image, found: Prediction, legend: Legend) -> Image.Image:
    """The prediction over an RGB image, which may be smaller than the original."""
    if found.task == "depth":
        return _draw_depth(image, found)
    if found.task == "segment":
        assert found.map is not None
        made = _blend(image, _class_colours(found.map, legend), found.map != IGNORE)
        shares = found.facts.get("shares", {})
        lines = [
            (f"{_short(name)}  {share:.0%}", legend.colour(legend.index(name)))
            for name, share in shares.items()
        ]
        return _add_card(made, lines)
    if found.task == "classify":
        best = found.facts.get("classes", ())
        lines = [
            (
                f"{_short(entry['class'])}  {entry['probability']:.0%}",
                legend.colour(legend.index(entry["class"])),
            )
            for entry in best
        ]
        return _add_card(image.copy(), lines)
    return _draw_regions(image, found, legend)


def region_colours(regions: tuple[Region, ...], legend: Legend) -> list[Colour]:
    """A colour for each region: that of its class, lighter and darker where objects share a class."""
    seen: dict[int, int] = {}
    colours = []
    for region in regions:
        count = seen.get(region.label, 0)
        seen[region.label] = count + 1
        base = np.array(legend.colour(region.label), float)
        shade = (0.0, 0.35, -0.3, 0.55, -0.5)[count % 5]
        mixed = base + (255 - base) * shade if shade > 0 else base * (1 + shade)
        colours.append((int(mixed[0]), int(mixed[1]), int(mixed[2])))
    return colours


def _draw_regions(image: Image.Image, found: Prediction, legend: Legend) -> Image.Image:
    colours = region_colours(found.regions, legend)
    made = image.copy()
    pairs = list(zip(found.regions, colours, strict=True))
    if found.map is not None and any(region.id for region in found.regions):
        table = np.zeros((1 + max(region.id for region in found.regions), 3), np.uint8)
        for region, colour in pairs:
            table[region.id] = colour
        ids = np.where(found.map < len(table), found.map, 0)
        made = _blend(made, table[ids], ids > 0, edges=ids)
    for region, colour in pairs:
        if region.mask is not None:
            flat = np.broadcast_to(np.array(colour, np.uint8), (*region.mask.shape, 3))
            made = _blend(made, flat, region.mask, edges=region.mask)
    size = found.map.shape[::-1] if found.map is not None else image.size
    across, down = (to / by for to, by in zip(image.size, size, strict=True))
    font = _font_for(image.size)
    pen = ImageDraw.Draw(made)
    width = max(1, round(min(image.size) / 200))
    for region, colour in pairs:
        if region.box is not None and region.thing:
            left, top, right, bottom = region.box
            corners = (left * across, top * down, max(left, right - 1) * across, max(top, bottom - 1) * down)
            pen.rectangle(corners, outline=colour, width=width)
    taken: list[tuple[float, float, float, float]] = []
    for region, colour in pairs:  # over all boxes
        if region.box is not None and region.thing:
            _add_tag(
                pen,
                f"{_short(region.name)} {region.score:.2f}",
                region.box[0] * across,
                region.box[1] * down,
                colour,
                font,
                made.size,
                taken,
            )
    counts: dict[int, int] = {}
    for region in found.regions:
        counts[region.label] = counts.get(region.label, 0) + 1
    names = {region.label: region.name for region in found.regions}
    lines = [
        (_short(names[label]) + (f"  {count}" if count > 1 else ""), legend.colour(label))
        for label, count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    return _add_card(made, lines)


def _draw_depth(image: Image.Image, found: Prediction) -> Image.Image:
    """Near dark, far bright, with the metres at both ends of the scale; unseen pixels stay dim grey."""
    assert found.map is not None
    known = np.isfinite(found.map)
    inside = found.map[known]
    low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 1.0)
    colours = heat(np.where(known, found.map, low), low, high)
    colours[~known] = 64
    made = Image.fromarray(colours).resize(image.size, Image.Resampling.NEAREST)
    font = _font_for(image.size)
    size = _size_of(font)
    wide = _BAR * size
    if wide > _WIDEST * image.width or 3 * size > _HIGHEST * image.height:
        return made
    left, top = size // 2, image.height - 3 * size
    _darken(made, (left, top, left + wide + size, image.height - size // 2))
    ramp = heat(np.linspace(low, high, wide)[None].repeat(size // 2, axis=0), low, high)
    made.paste(Image.fromarray(ramp), (left + size // 2, top + size // 3))
    pen = ImageDraw.Draw(made)
    below = top + size
    pen.text((left + size // 2, below), f"{low:.1f}", fill=_INK, font=font)
    text = f"{high:.1f} m"
    pen.text((left + size // 2 + wide - pen.textlength(text, font=font), below), text, fill=_INK, font=font)
    return made


def _class_colours(map: AnyArray | None, legend: Legend) -> ByteArray:
    assert map is not None
    table = np.array([legend.colour(label) for label in range(IGNORE)], np.uint8)
    return table[map % IGNORE]


def _blend(
    image: Image.Image, colours: AnyArray, where: AnyArray, edges: AnyArray | None = None
) -> Image.Image:
    """Colours [h,w,3] half transparent over an image, where `where` [h,w] is true; opaque along edges."""
    if where.shape != image.size[::-1]:
        size = image.size
        colours = np.asarray(
            Image.fromarray(np.ascontiguousarray(colours)).resize(size, Image.Resampling.NEAREST)
        )
        where = np.asarray(Image.fromarray(where).resize(size, Image.Resampling.NEAREST))
        edges = None
    pixels = np.asarray(image).astype(np.float32)
    share = np.where(where, np.float32(OPACITY), np.float32(0))
    if edges is not None:
        border = np.zeros(edges.shape, bool)
        border[:, 1:] |= edges[:, 1:] != edges[:, :-1]
        border[1:] |= edges[1:] != edges[:-1]
        share = np.where(border & where, np.float32(1), share)
    mixed = pixels + share[..., None] * (colours.astype(np.float32) - pixels)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _add_card(image: Image.Image, lines: list[tuple[str, Colour]]) -> Image.Image:
    """A legend in the lower left corner; fewer lines where it would hide too much, none on a tiny image."""
    font = _font_for(image.size)
    size = _size_of(font)
    step = round(1.45 * size)
    room = int(_HIGHEST * image.height - size) // step
    lines = lines[: min(_MOST_LINES, max(0, room))]
    pen = ImageDraw.Draw(image)
    widest = max((pen.textlength(text, font=font) for text, _ in lines), default=0)
    if not lines or widest + 3.5 * size > _WIDEST * image.width:
        return image
    height = step * len(lines) + size // 2
    left, top = size // 2, image.height - height - size // 2
    _darken(image, (left, top, left + round(widest + 2.6 * size), top + height))
    pen = ImageDraw.Draw(image)
    for row, (text, colour) in enumerate(lines):
        y = top + size // 2 + row * step
        pen.rectangle((left + size // 2, y, left + round(1.3 * size), y + round(0.8 * size)), fill=colour)
        pen.text((left + 1.8 * size, y - size // 5), text, fill=_INK, font=font)
    return image


def _darken(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """A dark, slightly transparent card."""
    part = image.crop(box)
    image.paste(Image.blend(part, Image.new("RGB", part.size, _CARD), _CARD_OPACITY), box[:2])


def _add_tag(
    pen: Any,
    text: str,
    x: float,
    y: float,
    colour: Colour,
    font: Any,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """A name on its colour, above the upper left corner of a box; moved below other tags."""
    high = round(1.35 * _size_of(font))
    wide = pen.textlength(text, font=font) + 0.6 * _size_of(font)
    left = max(0.0, min(x, size[0] - wide))
    top = max(0.0, min(y - high if y >= high else y, size[1] - high))
    for _ in range(len(taken)):
        clash = next((one for one in taken if _overlap(one, (left, top, left + wide, top + high))), None)
        if clash is None or clash[3] + high > size[1]:
            break
        top = clash[3]
    taken.append((left, top, left + wide, top + high))
    pen.rectangle((left, top, left + wide, top + high - 1), fill=colour)
    red, green, blue = colour
    ink = _CARD if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
    pen.text((left + 0.3 * _size_of(font), top + 0.08 * _size_of(font)), text, fill=ink, font=font)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _font_for(size: tuple[int, int]) -> Any:
    return _font(max(_SMALLEST_FONT, round(min(size) / _PIXELS_PER_FONT)))


@cache
def _font(size: int) -> Any:
    """Pillow's own font at `size` pixels; its small bitmap font where Pillow has no FreeType."""
    return ImageFont.load_default(size)


def _size_of(font: Any) -> int:
    return round(getattr(font, "size", _SMALLEST_FONT))
