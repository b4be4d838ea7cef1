"""From the exported program of a whole model to a clean ONNX graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir
from torch.export import ExportedProgram

from exporters.dialects import Dialect
from exporters.graph.graph import INPUT_NAME, finish, tidy, translate
from exporters.trace.fold import Weights

Shapes = Mapping[str, Sequence[int | str]]


def to_graph(
    program: ExportedProgram,
    outputs: Shapes,
    channels: int,
    weights: Weights,
    dialect: Dialect,
    size: tuple[int, int] | None = None,
    fixed: Collection[str] = (),
) -> ir.Model:
    """ONNX model of one image input and `outputs` (name -> shape), its weights still to be made."""
    model = translate(program, dialect, (INPUT_NAME,), tuple(outputs))
    tidy(model, weights)
    graph = model.graph
    height, width = size or (0, 0)
    graph.inputs[0].shape = ir.Shape(
        [
            1 if "batch" in fixed else "batch",
            channels,
            height if "height" in fixed else "height",
            width if "width" in fixed else "width",
        ]
    )
    for output in graph.outputs:
        output.shape = ir.Shape(list(outputs[str(output.name)]))
    finish(model, dialect)
    return model
