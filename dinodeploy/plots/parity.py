"""The plots of a parity report: errors against limits, growth over the blocks, the map of one image.

Errors span ten decades, so every axis is logarithmic; zero is at its left end or bottom.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dinodeploy.pages.palette import light
from dinodeploy.parity.bisect import AFTER, Bisection, Place
from dinodeploy.parity.reports.evidence import PatchErrors
from dinodeploy.plots.canvas import TIP, Axes, Box, Canvas, Plot, decades, log_axis, log_place, short

WIDTH = 760.0  # pixels of a plot; the page scales it
LABEL, ROW, VALUE, HEAD = 132.0, 22.0, 96.0, 16.0  # pixels: a bar's name, its row, its number, above all bars
GROWTH: Box = (52.0, 30.0, WIDTH - 84, 278.0)
CURVES = {  # group of tokens -> words, colour
    "cls": ("CLS", "accent"),
    "storage": ("storage", "orange"),
    "extra": ("own tokens", "sky"),
    "patch": ("patches", "purple"),
    "step": ("own step", "ink"),
}
MAP_WIDTH, MAP_HEIGHT, LEGEND = (WIDTH - 16) / 2, 360.0, 42.0  # pixels: of the map at most, below it
SPAN = 100.0  # colours reach from limit / SPAN to limit * SPAN
COLOUR_MAP = "viridis"  # evenly lighter: reads in grey and with any colour vision


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart. `value` None: not finite, or could not be measured."""

    label: str
    value: float | None
    passed: bool
    tip: str


def draw_bars(rows: Sequence[Bar], limit: float | None, name: str) -> Plot:
    """Bars with the limit as a line across them."""
    return Plot(
        f"{name}: bars on a logarithmic axis", WIDTH, HEAD + ROW * len(rows) + 26, partial(_bars, rows, limit)
    )


def _bars(rows: Sequence[Bar], limit: float | None, canvas: Canvas) -> None:
    bottom = HEAD + ROW * len(rows) + 4
    axes = canvas.axes((LABEL, HEAD, WIDTH - VALUE, bottom))
    low, high = _decades([row.value for row in rows] + [limit])
    log_axis(axes, "x", low, high)
    axes.set_ylim(bottom, HEAD)
    for place, row in enumerate(rows):
        y = HEAD + 4 + ROW * place
        colour = "pass" if row.passed else "fail"
        end = 10.0**high if row.value is None else max(row.value, 1.01 * 10.0**low)
        (bar,) = axes.barh(y + 8, end - 10.0**low, ROW - 6, 10.0**low, color=light(colour))
        bar.set_gid(TIP + row.tip)
        canvas.text(LABEL - 10, y + 12, row.label, anchor="right")
        words = short(row.value) + ("" if row.passed else " ✕")
        canvas.text(WIDTH - VALUE + 10, y + 12, words, "soft" if row.passed else "fail", bold=not row.passed)
    if limit:
        axes.axvline(limit, color=light("limit"), linewidth=1.5, dashes=(2.7, 2), clip_on=False)
        x = log_place(limit, low, high, LABEL, WIDTH - VALUE)
        canvas.text(x, HEAD - 6, f"limit {short(limit)}", "soft", 11, anchor="center")


def draw_growth(bisection: Bisection) -> Plot:
    """Errors of token groups after each block, each block's own step, the limit and the departure."""
    return Plot("error after each block, logarithmic", WIDTH, GROWTH[3] + 38, partial(_growth, bisection))


def _growth(bisection: Bisection, canvas: Canvas) -> None:
    places, (_, top, _, bottom) = bisection.places, GROWTH
    curves = {name: [_group(place, name) for place in places] for name in places[0].groups}
    curves["step"] = [place.step for place in places]
    values = [value for curve in curves.values() for value in curve]
    low, high = _decades([*values, bisection.limit])
    high += None in values  # one row above every number
    axes = canvas.axes(GROWTH)
    axes.set_xlim(0, len(places) - 1)
    log_axis(axes, "y", low, high)
    if None in values:
        ticks = [tick for tick in axes.get_yticks() if tick < 10.0**high]
        labels = [label.get_text() for label in axes.get_yticklabels()][: len(ticks)]
        axes.set_yticks([*ticks, 10.0**high], [*labels, "NaN"])
    _departure(bisection, axes, canvas)
    axes.axhline(bisection.limit, color=light("limit"), linewidth=1.5, dashes=(2.7, 2))
    ends = [(log_place(bisection.limit, low, high, bottom, top), "limit of a step", "soft")]
    for name, curve in curves.items():
        words, colour = CURVES[name]
        heights = [10.0**high if value is None else max(value, 10.0**low) for value in curve]
        width = 2.2 if name == "step" else 1.6
        axes.plot(heights, color=light(colour), linewidth=width, solid_joinstyle="round", clip_on=False)
        ends.append((log_place(heights[-1], low, high, bottom, top), words, colour))
    canvas.labels(GROWTH, ends)
    step = {"markerfacecolor": light("card"), "markeredgecolor": light("ink"), "markeredgewidth": 1.6}
    for index, place in enumerate(places):
        tip = f"{TIP}{place.name}: own step {short(place.step)}"
        height = 10.0**high if place.step is None else max(place.step, 10.0**low)
        axes.plot(index, height, "o", markersize=6, clip_on=False, gid=tip, **step)
    _place_names(places, canvas)


def _departure(bisection: Bisection, axes: Axes, canvas: Canvas) -> None:
    """A band behind the place that departs, with its name above."""
    if bisection.departs is None:
        return
    index = [place.name for place in bisection.places].index(bisection.departs)
    axes.axvspan(index - 0.5, index + 0.5, color=light("fail-tint"), linewidth=0, clip_on=False)
    left, top, right, _ = GROWTH
    x = left + (right - left) * index / (len(bisection.places) - 1)
    canvas.text(x, top - 10, f"departs at {bisection.departs}", "fail", anchor="center", bold=True)


def _place_names(places: Sequence[Place], canvas: Canvas) -> None:
    """Block numbers along the bottom, as many as fit; words for what is not a block."""
    left, _, right, bottom = GROWTH
    every = math.ceil(len(places) / 26)
    for index, place in enumerate(places):
        word = _tick(place.name)
        if not word.isdigit() or int(word) % every == 0:
            x = left + (right - left) * index / (len(places) - 1)
            canvas.text(x, bottom + 17, word, "soft", 11, anchor="center")
    canvas.text((left + right) / 2, bottom + 35, "block", "soft", 11.5, anchor="center")


def _tick(name: str) -> str:
    """A block's number in its stream; "in" for what leads into the first, an arrow for a later stream."""
    if name == AFTER:
        return "out"
    kind, _, numbers = name.partition(".")
    if kind == "downsample_layers":
        return f"↓{numbers}" if numbers != "0" else "in"
    return numbers.rpartition(".")[2] or "in"


def draw_patch_errors(found: PatchErrors, limit: float) -> Plot:
    """The error of every patch of one image as colours, with a legend.

    While all errors are within `limit`, colours are anchored at it and the map is dark. Otherwise they span
    what was found, so that a pattern shows.
    """
    rows, columns = found.image.shape[:2]
    scale = min(MAP_WIDTH / columns, MAP_HEIGHT / rows)
    width, height = columns * scale, rows * scale
    title = f"error of every patch of an image of case {found.case}"
    return Plot(title, width, height + LEGEND, partial(_patch_errors, found, limit))


def _patch_errors(found: PatchErrors, limit: float, canvas: Canvas) -> None:
    from matplotlib import colormaps

    colours = colormaps[COLOUR_MAP]
    low, high = (math.log10(end) for end in _span(found.errors, limit))
    rows, columns = found.errors.shape
    bottom = canvas.height - LEGEND
    axes = canvas.axes((0, 0, canvas.width, bottom))
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    for row, column, error in _cells(found.errors):
        colour = light("fail") if error is None else colours(log_place(error, low, high, 0, 1))
        (cell,) = axes.barh(row + 0.51, 1.02, 1.02, column, color=colour, linewidth=0)
        cell.set_gid(f"{TIP}row {row}, column {column}: {short(error)}")
    legend = canvas.axes((0, bottom + 10, canvas.width, bottom + 18))
    legend.imshow(np.linspace(0, 1, 256)[None], COLOUR_MAP, aspect="auto", extent=(0, 1, 0, 1))
    share = log_place(limit, low, high, 0, 1)
    canvas.text(0, bottom + 34, short(10.0**low), "soft", 11)
    canvas.text(canvas.width, bottom + 34, short(10.0**high), "soft", 11, anchor="right")
    if 0.2 < share < 0.8:
        canvas.text(canvas.width * share, bottom + 34, "limit", "soft", 11, anchor="center")


def _span(errors: NDArray[np.float64], limit: float) -> tuple[float, float]:
    """Errors at the two ends of the colours: at least a decade, or rounding would look like a pattern."""
    finite = errors[np.isfinite(errors) & (errors > 0)]
    high = float(finite.max(initial=0.0))
    return (min(float(finite.min()), high / 10), high) if high > limit else (limit / SPAN, limit * SPAN)


def _cells(errors: NDArray[np.float64]) -> Iterator[tuple[int, int, float | None]]:
    for (row, column), error in np.ndenumerate(errors):
        yield row, column, None if np.isnan(error) else float(error)


def draw_meter(value: float | None, at_least: float) -> Plot:
    """A cosine or a share against what it must reach, by what it lacks of 1: further right is better."""
    return Plot("found against wanted", WIDTH, 24, partial(_meter, value, at_least))


def _meter(value: float | None, at_least: float, canvas: Canvas) -> None:
    lacks = [1 - side for side in (-1.0 if value is None else value, at_least)]
    low, high = _decades([lack for lack in lacks if lack > 0])
    found, limit = (log_place(lack, low, high, WIDTH - 8, 8) for lack in lacks)
    passed = value is not None and value >= at_least
    axes = canvas.axes((0, 0, WIDTH, 24))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(24, 0)
    axes.barh(12, WIDTH - 16, 6, 8, color=light("grid"))
    axes.barh(12, max(found - 8, 3), 6, 8, color=light("pass" if passed else "fail"))
    axes.vlines(limit, 3, 21, color=light("limit"), linewidth=1.5)


def _group(place: Place, name: str) -> float | None:
    return place.groups[name].error if name in place.groups else None


def _decades(values: Sequence[float | None]) -> tuple[int, int]:
    """Two decades or more; the smallest value is clear of the axis."""
    positive = [value for value in values if value]
    return decades([*positive, min(positive) / 2], least=2) if positive else (-9, 0)
