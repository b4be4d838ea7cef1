"""Plots with matplotlib (extra `plots`), as SVG, PNG or an HTML page.

plot = draw_ranges(facts)
write_plot(plot, Path("ranges.svg"))
"""

from __future__ import annotations

from dinodeploy.plots.bench import draw_bench
from dinodeploy.plots.canvas import check_plot_path, check_plots, inline_svg, write_plot
from dinodeploy.plots.ranges import draw_ranges

__all__ = ["check_plot_path", "check_plots", "draw_bench", "draw_ranges", "inline_svg", "write_plot"]
