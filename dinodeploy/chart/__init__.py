"""Pictures of numbers: shapes with named inks, written as SVG, PNG or one HTML page. No plotting library.

drawing = draw_ranges(facts)
write_picture(drawing, Path("ranges.svg"))
"""

from __future__ import annotations

from dinodeploy.chart.bench import draw_bench
from dinodeploy.chart.ranges import draw_ranges
from dinodeploy.chart.write import check_picture_path, write_picture

__all__ = ["draw_bench", "draw_ranges", "write_picture", "check_picture_path"]
