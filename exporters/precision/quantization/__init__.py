"""8-bit recipes: what to calibrate, how to smooth it, and what it becomes in the graph.

    pictures ─> observe ─> smoothing ─> plan ─> sensitivity ─┬─> fold_plan (weights)
                                                             └─> write (graph)

`calibrate.py` runs the way up to the fork, `exporters/bundle/write_bundle.py` takes both branches.
"""

from __future__ import annotations

from exporters.precision.quantization.groups import Group, find_groups
from exporters.precision.quantization.observe import Observation, observe
from exporters.precision.quantization.plan import GroupPlan, QuantPlan, fold_plan, make_plan

__all__ = [
    "Group",
    "GroupPlan",
    "Observation",
    "QuantPlan",
    "find_groups",
    "fold_plan",
    "make_plan",
    "observe",
]
