"""Let a graph take bytes as images are decoded, in place of normalised pixels.

    pixels float32 [B,3,H,W] ─> first convolution
    pixels uint8 [B,H,W,3] ─> Cast ─> (x - 128)/64 ─> Transpose ─> first convolution, whose weights normalise

(x - 128)/64 is about as large as a normalised pixel, and exact in every type. The weights come from
`exporters/trace/fold.py`. TensorRT allows uint8 as an input that is cast at once, and nowhere else (its
operator reference, Cast).

Shapes: B batch, H W pixels.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.graph.edit import Edit
from exporters.graph.graph import INPUT_NAME
from exporters.trace.fold import MIDDLE, UNIT

CHANNELS_FIRST = (0, 3, 1, 2)  # permutation


def take_bytes(model: ir.Model) -> None:
    """Change the one input, in place; it keeps its name."""
    graph = model.graph
    (pixels,) = graph.inputs
    assert pixels.name == INPUT_NAME
    assert pixels.shape is not None
    batch, channels, height, width = pixels.shape
    taken = ir.Value(
        name=INPUT_NAME,
        shape=ir.Shape([batch, height, width, channels]),
        type=ir.TensorType(ir.DataType.UINT8),
    )
    widened = ir.node("Cast", [taken], {"to": ir.DataType.FLOAT}, name=f"{INPUT_NAME}/Cast")
    edit = Edit(graph)
    middle, unit = (
        edit.constant(f"{INPUT_NAME}.{name}", np.array(value, np.float32))
        for name, value in (("middle", MIDDLE), ("unit", 1 / UNIT))
    )
    centred = ir.node("Sub", [widened.outputs[0], middle], name=f"{INPUT_NAME}/Sub")
    scaled = ir.node("Mul", [centred.outputs[0], unit], name=f"{INPUT_NAME}/Mul")
    turned = ir.node("Transpose", scaled.outputs, {"perm": CHANNELS_FIRST}, name=f"{INPUT_NAME}/Transpose")
    nodes = (widened, centred, scaled, turned)
    for node in nodes:
        node.outputs[0].name = f"{node.name}:0"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    pixels.replace_all_uses_with(turned.outputs[0])
    graph.inputs[:] = [taken]
    graph.insert_before(graph[0], nodes)
