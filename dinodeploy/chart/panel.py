"""One panel of a chart: a logarithmic axis, lines over block numbers, and labels where the lines end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dinodeploy.chart.shapes import Dot, Line, Rect, Shape, Text

LABEL_GAP = 15.0  # pixels between the baselines of two labels
MAX_TICKS = 8


@dataclass(frozen=True)
class Columns:
    """Where each block stands; all panels of a picture share it."""

    left: float
    right: float
    count: int

    @property
    def step(self) -> float:
        return (self.right - self.left) / self.count

    def centre(self, index: int) -> float:
        return self.left + (index + 0.5) * self.step

    def numbers(self, y: float) -> Iterator[Shape]:
        """Block numbers under the last panel, as many as there is room for."""
        every = math.ceil(24 / self.step)
        for index in range(0, self.count, every):
            yield Text(self.centre(index), y, str(index), "faint", 11, "middle")


@dataclass(frozen=True)
class Axis:
    """Powers of ten, `low` at `bottom` to `high` at `top`, in pixels."""

    top: float
    bottom: float
    low: int
    high: int

    @classmethod
    def around(cls, values: Iterable[float | None], top: float, bottom: float) -> Axis:
        """Whole decades that hold all positive values; one decade where there are none."""
        positive = [value for value in values if value is not None and value > 0]
        low = math.floor(math.log10(min(positive, default=1.0)))
        high = math.ceil(math.log10(max(positive, default=1.0)))
        return cls(top, bottom, low, max(high, low + 1))

    def y(self, value: float) -> float:
        """Where `value` stands; what lies outside, zero included, stands at the end."""
        share = (math.log10(value) - self.low) / (self.high - self.low) if value > 0 else 0.0
        return self.bottom - min(max(share, 0.0), 1.0) * (self.bottom - self.top)

    def grid(self, columns: Columns) -> Iterator[Shape]:
        for power in range(self.low, self.high + 1, math.ceil((self.high - self.low) / MAX_TICKS)):
            y = self.y(10.0**power)
            yield Line(((columns.left, y), (columns.right, y)), "grid")
            yield Text(columns.left - 8, y + 4, _power(power), "faint", 11, "end")


def headline(columns: Columns, top: float, text: str) -> Text:
    """A panel's title, above it."""
    return Text(columns.left, top - 9, text, size=12.5, bold=True)


@dataclass(frozen=True)
class Series:
    """One line. A value of None, or one a logarithm has no place for, is a gap."""

    label: str
    ink: str
    values: Sequence[float | None]
    dash: float = 0.0


@dataclass(frozen=True)
class Panel:
    """`series` from `top` to `bottom` in pixels; past `limit` the ground is red."""

    columns: Columns
    top: float
    bottom: float
    title: str
    series: tuple[Series, ...]
    limit: float | None = None
    limit_label: str = ""

    @property
    def axis(self) -> Axis:
        values = [value for series in self.series for value in series.values]
        return Axis.around([*values, self.limit], self.top, self.bottom)

    def shapes(self) -> Iterator[Shape]:
        yield headline(self.columns, self.top, self.title)
        if self.limit is None:
            yield from self.axis.grid(self.columns)
        else:
            yield from self._limited_grid(self.axis.y(self.limit))
        for series in self.series:
            yield from self._line(series)
        yield from self._labels()

    def _limited_grid(self, y: float) -> Iterator[Shape]:
        left, right = self.columns.left, self.columns.right
        yield Rect(left, self.top, right - left, y - self.top, "alarm", 0.07)
        yield from self.axis.grid(self.columns)
        yield Line(((left, y), (right, y)), "alarm", 1.2, dash=5)

    def _line(self, series: Series) -> Iterator[Shape]:
        for run in _runs(series.values):
            points = tuple((self.columns.centre(index), self.axis.y(value)) for index, value in run)
            if len(points) > 1:
                yield Line(points, series.ink, 2.0, series.dash)
            for (index, value), (x, y) in zip(run, points, strict=True):
                title = f"block {index}, {series.label}: {value:,.4g}"
                yield Dot(x, y, 2.6, series.ink, title)

    def _labels(self) -> Iterator[Shape]:
        """Each series, and the limit, named at its right end; labels that would touch are moved apart."""
        ends = [(self.axis.y(self.limit), self.limit_label, "alarm")] if self.limit is not None else []
        for series in self.series:
            last = next((v for v in reversed(series.values) if v is not None and v > 0), None)
            if last is not None:
                ends.append((self.axis.y(last), series.label, series.ink))
        ends.sort(key=lambda end: end[0])
        ys = _apart([y for y, _, _ in ends], self.top, self.bottom)
        for y, (_, label, ink) in zip(ys, ends, strict=True):
            yield Text(self.columns.right + 10, y + 4, label, ink, 12)


def _runs(values: Iterable[float | None]) -> Iterator[list[tuple[int, float]]]:
    """Stretches without a gap, as (index, value)."""
    run: list[tuple[int, float]] = []
    for index, value in enumerate(values):
        if value is not None and value > 0:
            run.append((index, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _apart(ys: Sequence[float], top: float, bottom: float) -> list[float]:
    """Sorted positions, moved up as far as makes neighbours LABEL_GAP apart and keeps them above `bottom`.

    Where that would go past `top`, down instead.
    """
    placed = list(ys)
    ceiling = bottom
    for index in reversed(range(len(placed))):
        placed[index] = max(min(placed[index], ceiling), top + index * LABEL_GAP)
        ceiling = placed[index] - LABEL_GAP
    return placed


def _power(power: int) -> str:
    """10^power as people read it: 0.001 to 100,000 written out."""
    if power > 5 or power < -3:
        return f"1e{power}"
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"
