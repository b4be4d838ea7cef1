"""Run an operator in a 16-bit type, for real or emulated: Casts around it, powers of two where it needs them.

    typed     products and attention really are 16-bit operators: for TensorRT and CUDA
    emulated  every value that would be 16-bit is rounded to it and back, and computed in fp32: for CPUs.
              ONNX Runtime on a CPU has no 16-bit products; given the typed graph it computes in fp32 from
              end to end and leaves the roundings out, so an overflow would pass its judge unseen.

Values between roundings are fp32 in both, as in tensor cores, which accumulate in fp32.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir

from exporters.graph.edit import Edit

Style = Literal["typed", "emulated"]
FLOAT = ir.DataType.FLOAT


class Narrower:
    """Narrows one node after the other; values that are narrowed twice share their Cast."""

    def __init__(self, graph: ir.Graph, style: Style) -> None:
        self.edit = Edit(graph)
        self.emulate = style == "emulated"
        self._narrowed: dict[tuple[ir.Value, ir.DataType, int], ir.Value] = {}

    def narrow(self, node: ir.Node, dtype: ir.DataType, input_shift: int, weight_shift: int) -> None:
        """Run `node` in `dtype`; its result is fp32 again for whoever takes it. A Conv's bias stays fp32."""
        bias = self._take_bias(node)
        for index, value in enumerate(node.inputs):
            assert value is not None
            if value.const_value is not None and value.name in self.edit.graph.initializers:
                narrow = self._weight(value, dtype, weight_shift)
            else:
                narrow = self._activation(value, dtype, input_shift if index == 0 else 0, node)
            node.replace_input_with(index, narrow)
        self._widen_output(node, dtype, input_shift + weight_shift, bias)

    def _take_bias(self, node: ir.Node) -> ir.Value | None:
        """A Conv's bias [C] as [C,1,1], to be added behind it; None where there is none."""
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) == 3 else None
        if bias is None:
            return None
        wide = bias.const_value
        assert isinstance(wide, ir.LazyTensor)
        node.resize_inputs(2)
        name = f"{bias.name}.column"
        column = self.edit.weight(
            name, partial(_as_column, wide, name), wide.dtype, (wide.shape.numpy()[0], 1, 1)
        )
        self.edit.drop_unused(bias)
        return column

    def _activation(self, value: ir.Value, dtype: ir.DataType, shift: int, before: ir.Node) -> ir.Value:
        key = (value, dtype, shift)
        if key not in self._narrowed:
            stem = f"{value.name}/narrow{shift or ''}"
            scaled = value
            if shift:
                scaled = self.edit.before(before, "Mul", [value, self._power(-shift)], f"{stem}/scaled")
            narrow = self.edit.before(before, "Cast", [scaled], stem, to=int(dtype))
            if self.emulate:
                narrow = self.edit.before(before, "Cast", [narrow], f"{stem}/wide", to=int(FLOAT))
            self._narrowed[key] = narrow
        return self._narrowed[key]

    def _weight(self, value: ir.Value, dtype: ir.DataType, shift: int) -> ir.Value:
        """The layer's weight in `dtype`, made when it is written, like the fp32 one it replaces."""
        wide = value.const_value
        assert isinstance(wide, ir.LazyTensor)
        name = f"{value.name}.{dtype.name.lower()}"
        make = partial(_narrow_tensor, wide, dtype, shift, name)
        narrow = self.edit.weight(name, make, dtype, wide.shape.numpy())
        self.edit.graph.initializers.pop(str(value.name))
        if not self.emulate:
            return narrow
        # Ahead of everything: where large weights are not widened on opening, ONNX Runtime runs what stands
        # late in the file and waits for nothing first, and would hold half of a model widened at a time.
        return self.edit.before(self.edit.graph[0], "Cast", [narrow], f"{name}/wide", to=int(FLOAT))

    def _widen_output(self, node: ir.Node, dtype: ir.DataType, shift: int, bias: ir.Value | None) -> None:
        output, name = node.outputs[0], str(node.outputs[0].name)
        output.name = f"{name}/{dtype.name.lower()}"
        output.type = ir.TensorType(FLOAT if self.emulate else dtype)
        steps: list[tuple[str, list[ir.Value | None], str, dict[str, int]]] = []
        if self.emulate:
            steps.append(("Cast", [None], f"{name}/round", {"to": int(dtype)}))
        steps.append(("Cast", [None], f"{name}/wide", {"to": int(FLOAT)}))
        if shift:
            steps.append(("Mul", [None, self._power(shift)], f"{name}/unscaled", {}))
        if bias is not None:
            steps.append(("Add", [None, bias], f"{name}/biased", {}))
        self.edit.replace(node, steps)

    def _power(self, shift: int) -> ir.Value:
        """2^shift as a constant of the graph."""
        return self.edit.constant(f"const.two_to_{shift}".replace("-", "minus_"), np.float32(2.0**shift))


def _narrow_tensor(wide: ir.LazyTensor, dtype: ir.DataType, shift: int, name: str) -> ir.TensorProtocol:
    return ir.tensor((wide.numpy() * np.float32(2.0**-shift)).astype(dtype.numpy()), name=name)


def _as_column(bias: ir.LazyTensor, name: str) -> ir.TensorProtocol:
    return ir.tensor(bias.numpy().reshape(-1, 1, 1), name=name)


def merge_casts(graph: ir.Graph) -> None:
    """Let a narrow result go straight into a narrow input: narrow -> fp32 -> the same narrow type.

    Only where nothing but that conversion lies between: scores -> softmax -> values stays narrow
    throughout, which is what fused attention looks for.
    """
    for node in list(graph):
        widen = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] is not None else None
        if widen is None or widen.op_type != "Cast" or widen.inputs[0] is None:
            continue
        source, target = widen.inputs[0], ir.DataType(node.attributes["to"].as_int())
        # fp32 -> narrow -> fp32 is a rounding, and stays
        if target != FLOAT and source.type == ir.TensorType(target):
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)
            if not widen.outputs[0].uses() and not widen.outputs[0].is_graph_output():
                graph.remove(widen, safe=True)
