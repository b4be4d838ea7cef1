"""Draw a prediction over its image: coloured areas, boxes with names and scores, and a legend.

A class has the same colour in class images, overlays, pages and videos (`dense.palette`).

Shapes: h w pixels of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dinodeploy.arrays import AnyArray, ByteArray
from dinodeploy.tasks.dense import IGNORE, OPACITY, palette
from dinodeploy.tasks.prediction import Prediction, Region
from dinodeploy.visualize.cards import CARD, Colour, add_legend, add_scale, font_for, short, size_of
from dinodeploy.visualize.heat import heat


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
        shares = sorted(found.facts.get("shares", {}).items(), key=lambda item: -item[1])
        lines = [(name, _percent(share), legend.colour(legend.index(name))) for name, share in shares]
        add_legend(made, lines)
        return made
    if found.task == "classify":
        best = [(entry["class"], entry["probability"]) for entry in found.facts.get("classes", ())]
        made = image.copy()
        add_legend(made, [(name, _percent(p), legend.colour(legend.index(name))) for name, p in best])
        return made
    if found.task == "regress":
        values = found.facts.get("values", {}).items()
        made = image.copy()
        add_legend(made, [(name, f"{value:.4g}", legend.colour(k)) for k, (name, value) in enumerate(values)])
        return made
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
    font = font_for(image.size)
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
                f"{short(region.name)} {region.score:.2f}",
                region.box[0] * across,
                region.box[1] * down,
                colour,
                font,
                made.size,
                taken,
            )
    add_legend(made, [(name, number, legend.colour(label)) for label, name, number in _present(found)])
    return made


def _present(found: Prediction) -> list[tuple[int, str, str]]:
    """(label, name, number of its regions where there are several) of each class, the largest area first."""
    areas: dict[int, float] = {}
    counts: dict[int, int] = {}
    sizes = np.bincount(found.map.ravel()) if found.map is not None and found.map.size else np.zeros(1)
    for region in found.regions:
        if region.mask is not None:
            area = float(region.mask.sum())
        elif 0 < region.id < len(sizes):
            area = float(sizes[region.id])
        else:
            left, top, right, bottom = region.box or (0.0, 0.0, 0.0, 0.0)
            area = (right - left) * (bottom - top)
        areas[region.label] = areas.get(region.label, 0.0) + area
        counts[region.label] = counts.get(region.label, 0) + 1
    names = {region.label: region.name for region in found.regions}
    largest = sorted(areas, key=lambda label: -areas[label])
    return [(label, names[label], str(counts[label]) if counts[label] > 1 else "") for label in largest]


def _percent(share: float) -> str:
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _draw_depth(image: Image.Image, found: Prediction) -> Image.Image:
    """Near dark, far bright, with the metres at both ends of the scale; unseen pixels stay dim grey."""
    assert found.map is not None
    known = np.isfinite(found.map)
    inside = found.map[known]
    low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 1.0)
    colours = heat(np.where(known, found.map, low), low, high)
    colours[~known] = 64
    made = Image.fromarray(colours).resize(image.size, Image.Resampling.NEAREST)
    add_scale(made, f"{low:.1f}", f"{high:.1f} m")
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
    high = round(1.35 * size_of(font))
    wide = pen.textlength(text, font=font) + 0.6 * size_of(font)
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
    ink = CARD if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
    pen.text((left + 0.3 * size_of(font), top + 0.08 * size_of(font)), text, fill=ink, font=font)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
