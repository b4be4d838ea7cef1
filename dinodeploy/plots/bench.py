"""The plot of `dinodeploy bench`: bars of images per second, one group per input shape.

In each group the longest bar is the fastest runner. Each group has its own scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dinodeploy.pages.palette import light
from dinodeploy.plots.canvas import Canvas, Plot, add_bar

WIDTH, LEFT, RIGHT = 760.0, 150.0, 500.0
HEAD, ROW, GROUP = 64.0, 22.0, 44.0  # pixels: above all groups, per bar, above a group's bars
BAR = 15 / ROW  # share of a row

Record = Mapping[str, Any]


def draw_bench(record: Record) -> Plot:
    """`record`: what `dinodeploy bench --json` prints."""
    groups: dict[str, list[Record]] = {}
    for row in record["rows"]:
        groups.setdefault(f"batch {row['batch']}, {row['height']}x{row['width']}", []).append(row)
    title = f"{record['arch']}, {record['recipe']}: images per second"

    def draw(canvas: Canvas) -> None:
        y = HEAD
        for name, rows in groups.items():
            canvas.text(20, y + 30, name, size=13, bold=True)
            y += GROUP
            _bars(record, rows, y, canvas)
            y += ROW * len(rows)
        canvas.text(20, y + 28, "error: of CLS against the fp32 reference, relative", "soft", 11)

    height = HEAD + GROUP * len(groups) + ROW * len(record["rows"]) + 44
    where = f"{record['cpu']}, {record['threads']} threads, {record['date']}"
    return Plot(title, WIDTH, height, draw, where, HEAD)


def _bars(record: Record, rows: list[Record], top: float, canvas: Canvas) -> None:
    fastest = max(row["images_per_second"] for row in rows)
    box = (LEFT, top - 4, RIGHT, top + ROW * len(rows) - 4)
    axes = canvas.axes(box, xlim=(0, fastest), ylim=(len(rows) - 0.5, -0.5))
    axes.axvline(0, color=light("line"), linewidth=3)
    for place, row in enumerate(rows):
        name, rate = row["runner"], row["images_per_second"]
        facts, is_engine = record["runners"][name], name == "engine"
        colour, opacity = ("accent", 1.0) if is_engine else ("sky", 0.55)
        tip = f"{facts['runtime']}: {row['median_ms']:.1f} ms, p95 {row['p95_ms']:.1f} ms"
        add_bar(axes, place, rate, BAR, 0, light(colour), tip, alpha=opacity)
        y = top + ROW * place + 12
        canvas.text(LEFT - 10, y, name, anchor="right", bold=is_engine)
        label = f"{rate:.1f}   {row['ratio']:.2f}x   error {facts['relative_frobenius_cls']:.0e}"
        end = LEFT + (RIGHT - LEFT) * rate / fastest
        canvas.text(end + 8, y, label, "ink" if is_engine else "soft", 11.5)
