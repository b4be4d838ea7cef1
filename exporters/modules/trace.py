"""Trace a whole model with torch.export, with free batch, height and width, or fixed ones.

Shapes: B batch, H W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from contextlib import ExitStack
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from exporters.modules.whole import NamedOutputs, TracedCopy, stride_of_all
from exporters.trace.repeat import collapse_repeats
from exporters.trace.trace import TRACED_BATCH, TRACED_GRID

AXES = {"batch": 0, "height": 2, "width": 3}


def enlarge(grid: tuple[int, int], least: int) -> tuple[int, int]:
    """`grid`, with as many rows and columns more as its shorter side lacks of `least`."""
    more = max(least - min(grid), 0)
    return grid[0] + more, grid[1] + more


def trace(
    copied: TracedCopy,
    names: Collection[str],
    channels: int,
    size: tuple[int, int] | None = None,
    fixed: Collection[str] = (),
) -> ExportedProgram:
    """The exported program; of batch, height and width those in `fixed` are those it is traced at.

    size: H, W in pixels to trace at; default: off-square and as small as the model allows.
    """
    whole = NamedOutputs(copied.module, names)
    p = stride_of_all(list(copied.backbones.values()))
    rows, columns = enlarge(TRACED_GRID, getattr(copied.module, "least_side", 1) // p)
    height, width = size or (rows * p, columns * p)
    pixels = torch.zeros(1 if "batch" in fixed else TRACED_BATCH, channels, height, width)
    sizes: dict[int, Any] = {0: Dim("batch"), 2: p * Dim("rows"), 3: p * Dim("columns")}
    free = {axis: sizes[axis] for name, axis in AXES.items() if name not in fixed}

    def export(*, every_block: bool) -> ExportedProgram:
        with torch.no_grad(), warnings.catch_warnings(), ExitStack() as collapsed:
            warnings.simplefilter("ignore")  # torch's own deprecation warnings
            for path, backbone in copied.backbones.items() if not every_block else ():
                collapsed.enter_context(collapse_repeats(backbone, at=f"{path}." if path else ""))
            return torch.export.export(
                whole, (pixels,), dynamic_shapes=(free,) if free else None, strict=False
            )

    return export(every_block=True)
