"""The picture of `dinodeploy bench`, from the same record as its JSON: bars of speed, a group a shape.

Within a group the longest bar is the fastest runner; groups are not to scale with each other, for a larger
input is simply more work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dinodeploy.chart.shapes import Drawing, Line, Rect, Shape, Text

WIDTH, LEFT, RIGHT = 760.0, 150.0, 500.0
BAR, ROW, GROUP = 15.0, 22.0, 44.0  # pixels: of a bar, from bar to bar, of a group's title
ENGINE = "engine"


def draw_bench(record: Mapping[str, Any]) -> Drawing:
    """`record`: what `dinodeploy bench --json` prints."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in record["rows"]:
        groups.setdefault(f"batch {row['batch']}, {row['height']}x{row['width']}", []).append(row)
    title = f"{record['arch']}, {record['recipe']}: images a second"
    shapes: list[Shape] = [
        Text(20, 34, title, size=18, bold=True),
        Text(20, 54, f"{record['cpu']}, {record['threads']} threads, {record['date']}", "faint", 12),
    ]
    y = 64.0
    for name, rows in groups.items():
        shapes.append(Text(20, y + 30, name, size=13, bold=True))
        y += GROUP
        shapes += _bars(record, rows, y)
        y += ROW * len(rows)
    shapes.append(Text(20, y + 28, "error: of CLS against the fp32 reference, relative", "faint", 11))
    return Drawing(WIDTH, y + 44, title, tuple(shapes))


def _bars(record: Mapping[str, Any], rows: list[Mapping[str, Any]], y: float) -> Iterator[Shape]:
    fastest = max(row["images_per_second"] for row in rows)
    for row in rows:
        name, rate = row["runner"], row["images_per_second"]
        facts = record["runners"][name]
        ink = "blue" if name == ENGINE else "sky"
        length = (RIGHT - LEFT) * rate / fastest
        words = f"{facts['runtime']}: {row['median_ms']:.1f} ms, p95 {row['p95_ms']:.1f} ms"
        yield Text(LEFT - 10, y + 12, name, size=12, anchor="end", bold=name == ENGINE)
        yield Rect(LEFT, y, length, BAR, ink, 1.0 if name == ENGINE else 0.55, words)
        error = facts["relative_frobenius_cls"]
        label = f"{rate:.1f}   {row['ratio']:.2f}x   error {error:.0e}"
        yield Text(LEFT + length + 8, y + 12, label, "text" if name == ENGINE else "faint", 11.5)
        y += ROW
    yield Line(((LEFT, y - ROW * len(rows) - 4), (LEFT, y)), "grid", 1.5)
