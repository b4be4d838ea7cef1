"""Plots as inline SVG: no script, no file beside the page. Colours are classes of `style.py`.

Values span ten decades, so every axis that shows errors is logarithmic; zero stands at its left end or
bottom.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from dinodeploy.parity.bisect import AFTER, Bisection, Place
from dinodeploy.parity.reports.axes import WIDTH, Scale, decades, short, svg, text, x_grid, y_grid
from dinodeploy.parity.reports.evidence import PatchErrors

LABEL, BAR_HEIGHT, VALUE, HEAD = 132, 22, 96, 16  # a bar's name, its row, its number, room above all
CURVES = {"cls": "CLS", "storage": "storage", "extra": "own tokens", "patch": "patches", "step": "own step"}
PHOTO_PIXELS = 480  # longest side of the photograph that is shown
SPAN = 100.0  # colours reach from limit / SPAN to limit * SPAN

# Dark blue over teal to pale yellow, evenly lighter: reads in grey and with any colour vision.
RAMP = ((24, 32, 84), (36, 84, 130), (38, 130, 142), (84, 176, 122), (186, 212, 96), (253, 240, 170))


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart. `value` None: not finite, or could not be measured."""

    label: str
    value: float | None
    passed: bool
    title: str


def bars(rows: Sequence[Bar], limit: float | None, name: str) -> str:
    """Bars on a log axis with the limit as a line across them."""
    low, high = decades([value for value in (*(row.value for row in rows), limit) if value])
    x = Scale(low, high, LABEL, WIDTH - VALUE)
    bottom = HEAD + BAR_HEIGHT * len(rows) + 4
    parts = [x_grid(low, high, x, HEAD, bottom)]
    parts += [_bar(row, HEAD + 4 + index * BAR_HEIGHT, x, high) for index, row in enumerate(rows)]
    if limit:
        at = x(limit)
        parts.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{HEAD - 2}" y2="{bottom}"/>')
        parts.append(text(at, HEAD - 6, f"limit {short(limit)}", "limit-word", "middle"))
    return svg(bottom + 22, f"{name}: bars on a logarithmic axis", parts)


def _bar(row: Bar, y: float, x: Scale, high: int) -> str:
    end = x(row.value if row.value is not None else 10.0**high)
    kind = "pass" if row.passed else "fail"
    words = ("not finite" if row.value is None else short(row.value)) + ("" if row.passed else " ✕")
    box = f'x="{LABEL}" y="{y}" width="{max(end - LABEL, 2):.1f}" height="{BAR_HEIGHT - 6}" rx="2"'
    return (
        f"<g><title>{escape(row.title)}</title>"
        + text(LABEL - 10, y + 12, row.label, "label", "end")
        + f'<rect class="{kind}" {box}/>'
        + text(WIDTH - VALUE + 10, y + 12, words, f"value {kind}-word", "start")
        + "</g>"
    )


def growth(bisection: Bisection) -> str:
    """The error of each group of tokens along the blocks, each block's own step, limit and departure."""
    places = bisection.places
    left, right, top, bottom = 52, WIDTH - 84, 30, 278
    curves = {name: [_group(place, name) for place in places] for name in places[0].groups}
    curves["step"] = [place.step for place in places]
    values = [value for curve in curves.values() for value in curve]
    low, high = decades([value for value in (*values, bisection.limit) if value])
    high += None in values  # a row of its own, above every number
    y = Scale(low, high, bottom, top)
    at = [left + (right - left) * index / (len(places) - 1) for index in range(len(places))]
    parts = [
        y_grid(low, high, y, left, right, "NaN" if None in values else ""),
        _place_names(places, at, bottom),
        _departure(bisection, at, top, bottom),
    ]
    line = y(bisection.limit)
    parts.append(f'<line class="limit" x1="{left}" x2="{right}" y1="{line:.1f}" y2="{line:.1f}"/>')
    ends = [(line, "limit of a step", "limit-word")]
    for name, curve in curves.items():
        heights = [y(10.0**high if value is None else value) for value in curve]
        points = " ".join(f"{x:.1f},{height:.1f}" for x, height in zip(at, heights, strict=True))
        parts.append(f'<polyline class="curve {name}" points="{points}"/>')
        ends.append((heights[-1], CURVES[name], f"{name}-word"))
    parts += _dots(at, places, y, high)
    parts += [text(right + 8, height + 4, word, kind, "start") for height, word, kind in _apart(ends)]
    return svg(bottom + 38, "error against block, logarithmic", parts)


def _departure(bisection: Bisection, at: Sequence[float], top: float, bottom: float) -> str:
    """A band behind the place that departs, with its name above."""
    names = [place.name for place in bisection.places]
    if bisection.departs is None:
        return ""
    centre, half = at[names.index(bisection.departs)], (at[1] - at[0]) / 2
    box = f'x="{centre - half:.1f}" y="{top}" width="{2 * half:.1f}" height="{bottom - top}"'
    word = text(centre, top - 10, f"departs at {bisection.departs}", "band-word", "middle")
    return f'<rect class="band" {box}/>{word}'


def heat_map(found: PatchErrors, limit: float) -> str:
    """The photograph as the model sees it, and each patch's error beside it.

    For a right engine colours are anchored at the recipe's `limit`, so that it is dark. For a wrong one they
    spread over what was found, so that a pattern shows.
    """
    height, width = found.image.shape[:2]
    gap, top = 16, 4
    scale = min((WIDTH - gap) / 2 / width, 360 / height)
    w, h = width * scale, height * scale
    low, high = _range(found, limit)
    left, right = (WIDTH - gap) / 2 - w, (WIDTH + gap) / 2
    box = f'y="{top}" width="{w:.1f}" height="{h:.1f}" preserveAspectRatio="none"'
    rows, columns = found.errors.shape
    parts = [
        f'<image x="{left:.1f}" {box} href="{_data_url(found)}"/>',
        f'<svg x="{right:.1f}" {box} viewBox="0 0 {columns} {rows}" shape-rendering="crispEdges">',
        *_cells(found, low, high),
        "</svg>",
        _legend(right, top + h + 14, w, (low, limit, high)),
    ]
    return svg(top + h + 42, f"error of every patch of a photograph of case {found.case}", parts)


def _range(found: PatchErrors, limit: float) -> tuple[float, float]:
    """Errors at the two ends of the ramp; never less than a decade, which would make a picture of noise."""
    finite = found.errors[np.isfinite(found.errors) & (found.errors > 0)]
    high = float(finite.max(initial=0.0))
    return (min(float(finite.min()), high / 10), high) if high > limit else (limit / SPAN, limit * SPAN)


def _cells(found: PatchErrors, low: float, high: float) -> Iterator[str]:
    for (row, column), error in np.ndenumerate(found.errors):
        words = "not finite" if np.isnan(error) else short(float(error))
        fill = "var(--fail)" if np.isnan(error) else _colour(float(error), low, high)
        yield (
            f'<rect x="{column}" y="{row}" width="1.02" height="1.02" fill="{fill}">'
            f"<title>row {row}, column {column}: {words}</title></rect>"
        )


def meter(value: float | None, at_least: float) -> str:
    """A cosine or a share against what it must reach, by what it lacks of 1: further right is better."""
    lacks = [1 - side for side in (-1.0 if value is None else value, at_least)]
    low, high = decades([lack for lack in lacks if lack > 0])
    x = Scale(low, high, WIDTH - 8, 8)
    found, limit = (x(lack) for lack in lacks)
    kind = "pass" if value is not None and value >= at_least else "fail"
    parts = [
        f'<rect class="track" x="8" y="9" width="{WIDTH - 16}" height="6" rx="3"/>',
        f'<rect class="{kind}" x="8" y="9" width="{max(found - 8, 3):.1f}" height="6" rx="3"/>',
        f'<line class="limit" x1="{limit:.1f}" x2="{limit:.1f}" y1="3" y2="21"/>',
    ]
    return svg(24, "found against wanted", parts)


# ---- curves ----------------------------------------------------------------------------------------


def _group(place: Place, name: str) -> float | None:
    return place.groups[name].error if name in place.groups else None


def _dots(at: Sequence[float], places: Sequence[Place], y: Scale, high: int) -> Iterator[str]:
    for x, place in zip(at, places, strict=True):
        words = "not finite" if place.step is None else short(place.step)
        height = y(10.0**high if place.step is None else place.step)
        yield (
            f'<circle class="dot" cx="{x:.1f}" cy="{height:.1f}" r="3">'
            f"<title>{escape(place.name)}: own step {words}</title></circle>"
        )


def _apart(ends: Sequence[tuple[float, str, str]], gap: float = 15) -> list[tuple[float, str, str]]:
    """Words at the ends of lines, pushed down until none covers another."""
    placed: list[tuple[float, str, str]] = []
    for top, word, kind in sorted(ends):
        floor = placed[-1][0] + gap if placed else top
        placed.append((max(top, floor), word, kind))
    return placed


def _place_names(places: Sequence[Place], at: Sequence[float], bottom: float) -> str:
    """Numbers of blocks along the bottom, as many as fit; words for what is no block."""
    every = math.ceil(len(places) / 26)
    parts = []
    for index, place in enumerate(places):
        word = _tick(place.name)
        if not word.isdigit() or int(word) % every == 0:
            parts.append(text(at[index], bottom + 17, word, "tick", "middle"))
    parts.append(text((at[0] + at[-1]) / 2, bottom + 35, "block", "axis", "middle"))
    return "".join(parts)


def _tick(name: str) -> str:
    """A block's number in its stream; "in" for what leads into the first, an arrow into a later one."""
    if name == AFTER:
        return "out"
    kind, _, numbers = name.partition(".")
    if kind == "downsample_layers":
        return f"↓{numbers}" if numbers != "0" else "in"
    return numbers.rpartition(".")[2] or "in"


# ---- small things ----------------------------------------------------------------------------------


def _legend(left: float, top: float, width: float, marks: tuple[float, float, float]) -> str:
    """The ramp under the map, from `marks`' first to its last; the limit between, where it lies there."""
    low, limit, high = marks
    share = math.log(limit / low) / math.log(high / low)
    stops = "".join(
        f'<stop offset="{index / (len(RAMP) - 1):.2f}" stop-color="rgb{rgb}"/>'
        for index, rgb in enumerate(RAMP)
    )
    return (
        f'<defs><linearGradient id="ramp">{stops}</linearGradient></defs>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="8" rx="2" fill="url(#ramp)"/>'
        + text(left, top + 22, short(low), "tick", "start")
        + text(left + width, top + 22, short(high), "tick", "end")
        + (text(left + width * share, top + 22, "limit", "tick", "middle") if 0.2 < share < 0.8 else "")
    )


def _colour(value: float, low: float, high: float) -> str:
    """A place on RAMP, logarithmic; what lies outside has the colour of its end."""
    share = math.log(value / low) / math.log(high / low) if value > 0 else 0.0
    position = min(max(share, 0.0), 1.0) * (len(RAMP) - 1)
    index = min(int(position), len(RAMP) - 2)
    rest = position - index
    rgb = (round(a + (b - a) * rest) for a, b in zip(RAMP[index], RAMP[index + 1], strict=True))
    return f"rgb({','.join(map(str, rgb))})"


def _data_url(found: PatchErrors) -> str:
    """The photograph as a small JPEG inside the page."""
    height, width = found.image.shape[:2]
    scale = min(1.0, PHOTO_PIXELS / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(found.image).resize(size)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
