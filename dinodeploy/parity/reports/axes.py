"""Scales, grids and words of the plots: SVG text in, SVG text out.

Errors span ten decades, so a scale is logarithmic, in whole decades.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH = 760  # of every plot, in SVG units; the page scales it


class Scale:
    """A decade axis: 10**low at `start`, 10**high at `end`; what lies outside stays at its end."""

    def __init__(self, low: int, high: int, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        exponent = math.log10(value) if value > 0 else self.low
        share = (exponent - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


def decades(values: Sequence[float]) -> tuple[int, int]:
    """Whole decades around positive values, at least two; the smallest stands clear of the axis."""
    if not values:
        return -9, 0
    low, high = math.floor(math.log10(min(values) / 2)), math.ceil(math.log10(max(values)))
    return low, max(high, low + 2)


def _ticks(low: int, high: int, most: int) -> range:
    return range(low, high + 1, max(1, math.ceil((high - low) / most)))


def x_grid(low: int, high: int, x: Scale, top: float, bottom: float) -> str:
    parts = []
    for exponent in _ticks(low, high, 8):
        at = x(10.0**exponent)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(text(at, bottom + 15, _power(exponent), "tick", "middle"))
    return "".join(parts)


def y_grid(low: int, high: int, y: Scale, left: float, right: float, top_word: str) -> str:
    """Lines and powers of ten; the top line bears `top_word` where there is one."""
    parts = []
    for exponent in _ticks(low, high - bool(top_word), 7):
        at = y(10.0**exponent)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(text(left - 8, at + 4, _power(exponent), "tick", "end"))
    if top_word:
        parts.append(text(left - 8, y(10.0**high) + 4, top_word, "tick", "end"))
    return "".join(parts)


def short(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _power(exponent: int) -> str:
    return "1" if exponent == 0 else f"1e{exponent}"


def text(x: float, y: float, words: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def svg(height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )
