"""Trace a whole model with torch.export, with free batch, height and width, or fixed ones.

Shapes: B batch, H W pixels.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from exporters.trace.trace import TRACED_BATCH, TRACED_GRID

AXES = {"batch": 0, "height": 2, "width": 3}


def trace(
    whole: nn.Module,
    channels: int,
    p: int,
    size: tuple[int, int] | None = None,
    grid: tuple[int, int] = TRACED_GRID,
    fixed: Collection[str] = (),
) -> ExportedProgram:
    """The exported program; of batch, height and width those in `fixed` are those it is traced at.

    whole: the copied module in a wrapper that returns its outputs in order (`outputs.py`). p: pixels of which
    both sides are a multiple. size: H, W to trace at, if they are fixed; else `grid`, in p.
    """
    height, width = size or (grid[0] * p, grid[1] * p)
    pixels = torch.zeros(1 if "batch" in fixed else TRACED_BATCH, channels, height, width)
    sizes: dict[int, Any] = {0: Dim("batch"), 2: p * Dim("rows"), 3: p * Dim("columns")}
    free = {axis: sizes[axis] for name, axis in AXES.items() if name not in fixed}
    with torch.no_grad(), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # torch's own deprecation warnings
        return torch.export.export(whole, (pixels,), dynamic_shapes=(free,) if free else None, strict=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch prints of a graph that it cannot make: the error says it."""
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def shapes_of(program: ExportedProgram, names: Sequence[str], p: int) -> dict[str, list[int | str]]:
    """Output name -> shape, free sizes by name: batch, height, width, rows and columns of the patch grid."""
    (pixels,) = [
        node
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    ]
    batch, _, height, width = pixels.meta["val"].shape
    known = {str(batch): "batch", str(height): "height", str(width): "width"}
    known |= {str(height // p): "rows", str(width // p): "columns"}
    outputs = [node.meta["val"].shape for node in program.graph.output_node().args[0]]
    return {
        name: [
            size if isinstance(size, int) else known.get(str(size), f"{name}_{axis}")
            for axis, size in enumerate(shape)
        ]
        for name, shape in zip(names, outputs, strict=True)
    }
