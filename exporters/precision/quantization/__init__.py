"""8-bit recipes: calibrate, smooth, choose a quantization scheme, write it into the graph.

    images ─> observe ─> smoothing ─> scheme ─> sensitivity ─┬─> fold_scheme (weights)
                                                             └─> write (graph)

`calibrate.py` runs the steps up to the fork, `exporters/bundle/write_bundle.py` runs both branches.
"""

from __future__ import annotations

from exporters.precision.quantization.groups import Group, find_groups
from exporters.precision.quantization.observe import Observation, observe
from exporters.precision.quantization.scheme import GroupScheme, QuantScheme, fold_scheme, make_scheme

__all__ = [
    "Group",
    "GroupScheme",
    "Observation",
    "QuantScheme",
    "find_groups",
    "fold_scheme",
    "make_scheme",
    "observe",
]
