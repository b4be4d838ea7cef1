"""The plots of a parity report: errors against limits, growth over the blocks, the map of one image.

Errors span ten decades, so every axis is logarithmic; zero is at its left end or bottom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import ByteArray
from dinodeploy.pages.palette import light
from dinodeploy.parity.bisect import AFTER, Bisection
from dinodeploy.plots.canvas import TIP, Box, Canvas, Plot, add_bar, decades, log_axis, log_place, short

WIDTH = 760.0  # pixels of a plot; the page scales it
LABEL, ROW, VALUE, HEAD = 132.0, 22.0, 96.0, 16.0  # pixels: a bar's name, its row, its number, above all bars
GROWTH: Box = (52.0, 30.0, WIDTH - 108, 278.0)
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


@dataclass(frozen=True)
class PatchErrors:
    """‖got - wanted‖ / ‖wanted‖ of each patch of one image."""

    case: str
    image: ByteArray  # [H,W,3], as the model sees it
    errors: NDArray[np.float64]  # [h,w]; NaN where not finite


def draw_bars(rows: Sequence[Bar], limit: float | None, name: str) -> Plot:
    """Bars with the limit as a line across them."""
    bottom, right = HEAD + ROW * len(rows) + 4, WIDTH - VALUE
    low, high = _decades([row.value for row in rows] + [limit])

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes((LABEL, HEAD, right, bottom), ylim=(bottom, HEAD))
        log_axis(axes, "x", low, high)
        for place, row in enumerate(rows):
            y = HEAD + 4 + ROW * place
            end = 10.0**high if row.value is None else max(row.value, 1.01 * 10.0**low)
            colour = light("pass" if row.passed else "fail")
            add_bar(axes, y + 8, end - 10.0**low, ROW - 6, 10.0**low, colour, row.tip)
            canvas.text(LABEL - 10, y + 12, row.label, anchor="right")
            words = short(row.value) + ("" if row.passed else " ✕")
            canvas.text(right + 10, y + 12, words, "soft" if row.passed else "fail", bold=not row.passed)
        if limit:
            axes.axvline(limit, color=light("limit"), linewidth=1.5, dashes=(2.7, 2), clip_on=False)
            x = log_place(limit, low, high, LABEL, right)
            canvas.text(x, HEAD - 6, f"limit {short(limit)}", "soft", 11, anchor="center")

    return Plot(f"{name}: bars on a logarithmic axis", WIDTH, bottom + 22, draw)


def draw_growth(bisection: Bisection) -> Plot:
    """Errors of token groups after each block, each block's own step, the limit and the departure."""
    places, (left, top, right, bottom) = bisection.places, GROWTH
    curves = {
        name: [place.groups[name].error if name in place.groups else None for place in places]
        for name in places[0].groups
    }
    curves["step"] = [place.step for place in places]
    values = [value for curve in curves.values() for value in curve]
    low, high = _decades([*values, bisection.limit])
    high += None in values  # one row above every number

    def height(value: float | None) -> float:
        return 10.0**high if value is None else max(value, 10.0**low)

    def x_of(index: int) -> float:
        return left + (right - left) * index / (len(places) - 1)

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes(GROWTH, xlim=(0, len(places) - 1))
        log_axis(axes, "y", low, high)
        if None in values:
            ticks = [tick for tick in axes.get_yticks() if tick < 10.0**high]
            labels = [label.get_text() for label in axes.get_yticklabels()][: len(ticks)]
            axes.set_yticks([*ticks, 10.0**high], [*labels, "NaN"])
        if bisection.departs is not None:  # a band behind the place, with its name above
            index = [place.name for place in places].index(bisection.departs)
            axes.axvspan(index - 0.5, index + 0.5, color=light("fail-tint"), linewidth=0, clip_on=False)
            words = f"departs at {bisection.departs}"
            canvas.text(x_of(index), top - 10, words, "fail", anchor="center", bold=True)
        axes.axhline(bisection.limit, color=light("limit"), linewidth=1.5, dashes=(2.7, 2))
        ends = [(log_place(bisection.limit, low, high, bottom, top), "limit of a step", "soft")]
        line = {"solid_joinstyle": "round", "clip_on": False}
        for name, curve in curves.items():
            words, colour = CURVES[name]
            heights = [height(value) for value in curve]
            axes.plot(heights, color=light(colour), linewidth=2.2 if name == "step" else 1.6, **line)
            ends.append((log_place(heights[-1], low, high, bottom, top), words, colour))
        canvas.labels(GROWTH, ends)
        ring = {"markerfacecolor": light("card"), "markeredgecolor": light("ink"), "markeredgewidth": 1.6}
        for index, place in enumerate(places):
            tip = f"{TIP}{place.name}: own step {short(place.step)}"
            axes.plot(index, height(place.step), "o", markersize=6, clip_on=False, gid=tip, **ring)
        for index, place in enumerate(places):  # as many block numbers as fit, words for other places
            word = _tick(place.name)
            if not word.isdigit() or int(word) % math.ceil(len(places) / 26) == 0:
                canvas.text(x_of(index), bottom + 17, word, "soft", 11, anchor="center")
        canvas.text((left + right) / 2, bottom + 35, "block", "soft", 11.5, anchor="center")

    return Plot("error after each block, logarithmic", WIDTH, bottom + 38, draw)


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
    scale = min(MAP_WIDTH / found.image.shape[1], MAP_HEIGHT / found.image.shape[0])
    bottom, width = (side * scale for side in found.image.shape[:2])
    low, high = (math.log10(end) for end in _span(found.errors, limit))

    def draw(canvas: Canvas) -> None:
        from matplotlib import colormaps

        rows, columns = found.errors.shape
        axes = canvas.axes((0, 0, width, bottom), xlim=(0, columns), ylim=(rows, 0))
        for (row, column), error in np.ndenumerate(found.errors):
            known = not np.isnan(error)
            colour = colormaps[COLOUR_MAP](log_place(error, low, high, 0, 1)) if known else light("fail")
            tip = f"row {row}, column {column}: {short(error if known else None)}"
            add_bar(axes, row + 0.51, 1.02, 1.02, column, colour, tip, linewidth=0)
        legend = canvas.axes((0, bottom + 10, width, bottom + 18))
        legend.imshow(np.linspace(0, 1, 256)[None], COLOUR_MAP, aspect="auto", extent=(0, 1, 0, 1))
        canvas.text(0, bottom + 34, short(10.0**low), "soft", 11)
        canvas.text(width, bottom + 34, short(10.0**high), "soft", 11, anchor="right")
        share = log_place(limit, low, high, 0, 1)
        if 0.2 < share < 0.8:
            canvas.text(width * share, bottom + 34, "limit", "soft", 11, anchor="center")

    return Plot(f"error of every patch of an image of case {found.case}", width, bottom + LEGEND, draw)


def _span(errors: NDArray[np.float64], limit: float) -> tuple[float, float]:
    """Errors at the two ends of the colours: at least a decade, or rounding would look like a pattern."""
    finite = errors[np.isfinite(errors) & (errors > 0)]
    high = float(finite.max(initial=0.0))
    return (min(float(finite.min()), high / 10), high) if high > limit else (limit / SPAN, limit * SPAN)


def draw_meter(value: float | None, at_least: float) -> Plot:
    """A cosine or a share against what it must reach, by what it lacks of 1: further right is better."""
    lacks = [1 - side for side in (-1.0 if value is None else value, at_least)]
    low, high = _decades([lack for lack in lacks if lack > 0])
    found, limit = (log_place(lack, low, high, WIDTH - 8, 8) for lack in lacks)
    colour = light("pass" if value is not None and value >= at_least else "fail")

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes((0, 0, WIDTH, 24), xlim=(0, WIDTH), ylim=(24, 0))
        axes.barh(12, WIDTH - 16, 6, 8, color=light("grid"))
        axes.barh(12, max(found - 8, 3), 6, 8, color=colour)
        axes.vlines(limit, 3, 21, color=light("limit"), linewidth=1.5)

    return Plot("found against wanted", WIDTH, 24, draw)


def _decades(values: Sequence[float | None]) -> tuple[int, int]:
    """Two decades or more; the smallest value is clear of the axis."""
    positive = [value for value in values if value]
    return decades([*positive, min(positive) / 2], least=2) if positive else (-9, 0)
