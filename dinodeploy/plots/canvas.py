"""A matplotlib figure measured in pixels from its top left corner, and logarithmic axes on it.

Colours are names of `pages/palette.py`. Text that a viewer shows on hover is an artist's gid, with TIP before
it; `write.py` turns it into an SVG title.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dinodeploy.pages.palette import light

Axes = Any  # matplotlib.axes.Axes: the package is optional
Anchor = Literal["left", "center", "right"]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

TIP = "tip:"
LABEL_GAP = 15.0  # pixels between the baselines of two labels
MAX_TICKS = 8


@dataclass(frozen=True)
class Plot:
    """A plot that is still to be drawn, in pixels."""

    title: str
    width: float
    height: float
    draw: Callable[[Canvas], None]


class Canvas:
    """What a plot draws on."""

    def __init__(self, figure: Any, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def text(
        self, x: float, y: float, words: str, colour: str = "ink", size: float = 12.0, *,
        anchor: Anchor = "left", bold: bool = False, tip: str = "",
    ) -> None:  # fmt: skip
        """One line of text whose baseline is at `y`."""
        self.figure.text(
            x / self.width, 1 - y / self.height, words, color=light(colour), fontsize=size, ha=anchor,
            va="baseline", fontweight="bold" if bold else "normal", gid=tip and TIP + tip,
        )  # fmt: skip

    def axes(self, box: Box) -> Axes:
        """Empty axes without frame and ticks."""
        left, top, right, bottom = box
        place = (left / self.width, 1 - bottom / self.height)
        size = ((right - left) / self.width, (bottom - top) / self.height)
        axes = self.figure.add_axes((*place, *size), facecolor="none")
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=6, labelsize=11, labelcolor=light("soft"))
        axes.set_xticks([])
        axes.set_yticks([])
        return axes

    def labels(self, box: Box, ends: Iterable[tuple[float, str, str]]) -> None:
        """(y, words, colour) beside the right edge, moved apart where they would touch."""
        placed = sorted(ends)
        _, top, right, bottom = box
        for y, (_, words, colour) in zip(apart([y for y, *_ in placed], top, bottom), placed, strict=True):
            self.text(right + 10, y + 4, words, colour)


def decades(values: Iterable[float | None], least: int = 1) -> tuple[int, int]:
    """Exponents of the whole decades that hold all positive values, `least` decades or more."""
    positive = [value for value in values if value is not None and value > 0] or [1.0]
    low = math.floor(math.log10(min(positive)))
    return low, max(math.ceil(math.log10(max(positive))), low + least)


def log_axis(axes: Axes, side: Literal["x", "y"], low: int, high: int) -> None:
    """Scale, grid and labels from 10^low to 10^high."""
    powers = range(low, high + 1, math.ceil((high - low) / MAX_TICKS))
    labels = [f"1e{power}" if low < -3 and power else as_power(power) for power in powers]
    getattr(axes, f"set_{side}scale")("log")
    getattr(axes, f"set_{side}lim")(10.0**low, 10.0**high)
    getattr(axes, f"set_{side}ticks")([10.0**power for power in powers], labels)
    axes.minorticks_off()
    axes.grid(axis=side, color=light("grid"), linewidth=1)


def log_place(value: float, low: float, high: float, start: float, end: float) -> float:
    """Pixel of a value on an axis from 10^low to 10^high; a value outside it, such as 0, is at its end."""
    share = (math.log10(value) - low) / (high - low) if value > 0 else 0.0
    return start + min(max(share, 0.0), 1.0) * (end - start)


def apart(ys: Sequence[float], top: float, bottom: float, gap: float = LABEL_GAP) -> list[float]:
    """Sorted positions, moved up until neighbours are `gap` apart and all are above `bottom`.

    Positions stay below `top`: the lower ones have less room there.
    """
    placed = list(ys)
    ceiling = bottom
    for index in reversed(range(len(placed))):
        placed[index] = max(min(placed[index], ceiling), top + index * gap)
        ceiling = placed[index] - gap
    return placed


def as_power(power: int) -> str:
    """10^power in words: written out from 0.001 to 100,000."""
    if power > 5 or power < -3:
        return f"1e{power}"
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"


def short(value: float | None) -> str:
    """Two digits of an error; None is a value that is not finite."""
    return "not finite" if value is None else "0" if value == 0 else f"{value:.1e}"
