"""Convert operators of a graph to fp16 or bf16, typed or emulated, scaled by powers of two where needed.

    typed     products and attention are 16-bit operators: for TensorRT and CUDA
    emulated  each 16-bit value is rounded to the type and back, and computed in fp32: for CPUs. ONNX Runtime
              has no 16-bit products on a CPU. It would run the typed graph in fp32 throughout, without the
              roundings, and the judge would miss an overflow.

Values between roundings are fp32 in both, as in tensor cores, which accumulate in fp32.

Shapes: C output channels of a convolution.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir

from exporters.graph.edit import Edit

Style = Literal["typed", "emulated"]
FLOAT = ir.DataType.FLOAT
BIASED = ("Conv", "ConvTranspose", "Gemm")  # operators with a bias as their third input


class LowPrecisionConverter:
    """Converts nodes to low precision; nodes that use the same value share its Cast."""

    def __init__(self, graph: ir.Graph, style: Style) -> None:
        self.edit = Edit(graph)
        self.emulate = style == "emulated"
        self._converted: dict[tuple[ir.Value, ir.DataType, int], ir.Value] = {}
        self._weights: dict[tuple[ir.Value, ir.DataType, int], ir.Value] = {}

    def convert(
        self,
        node: ir.Node,
        dtype: ir.DataType,
        input_shift: int,
        weight_shift: int,
        *,
        stored: bool = True,
    ) -> None:
        """Run `node` in `dtype` and cast its output back to fp32. A convolution's or Gemm's bias stays fp32.

        The input is scaled by 2^-input_shift, the weight by 2^-weight_shift, the output by their inverse.
        stored: whether the file gets the weight in `dtype`. Otherwise it keeps what graphs for CPUs read, and
        a Cast makes the weight, which runtimes compute when they build or load the graph.
        """
        bias = self._take_bias(node, stored)
        for index, value in enumerate(node.inputs):
            assert value is not None
            if value.const_value is not None and value.producer() is None and stored:
                low = self._weight(value, dtype, weight_shift)
            else:
                shift = input_shift if index == 0 else 0 if value.const_value is None else weight_shift
                low = self._activation(value, dtype, shift, node)
            node.replace_input_with(index, low)
            self.edit.drop_unused(value)
        shift = input_shift + weight_shift
        self.output_to_fp32(node, dtype, self._power(shift) if shift else None, bias)

    def _take_bias(self, node: ir.Node, stored: bool) -> ir.Value | None:
        """Remove a bias [C] and return it, of a convolution as [C,1,1], to add later; or None."""
        bias = node.inputs[2] if node.op_type in BIASED and len(node.inputs) == 3 else None
        if bias is None:
            return None
        node.resize_inputs(2)
        if node.op_type == "Gemm":
            return bias
        fp32 = bias.const_value
        assert fp32 is not None
        name = f"{bias.name}.column"
        if not stored:
            shape = self.edit.constant("const.column", np.array([-1, 1, 1], np.int64))
            return self.edit.before(node, "Reshape", [bias, shape], name)
        column = self.edit.weight(
            name, partial(_as_column, fp32, name), fp32.dtype, (fp32.shape.numpy()[0], 1, 1)
        )
        self.edit.drop_unused(bias)
        return column

    def _activation(self, value: ir.Value, dtype: ir.DataType, shift: int, before: ir.Node) -> ir.Value:
        """`value` in `dtype`, scaled by 2^-shift; the conversion is inserted before the node `before`."""
        key = (value, dtype, shift)
        if key not in self._converted:
            stem = f"{value.name}/narrow{shift or ''}"
            scaled = value
            if shift:
                scaled = self.edit.before(before, "Mul", [value, self._power(-shift)], f"{stem}/scaled")
            low = self.edit.before(before, "Cast", [scaled], stem, to=int(dtype))
            if self.emulate:
                low = self.edit.before(before, "Cast", [low], f"{stem}/wide", to=int(FLOAT))
            self._converted[key] = low
        return self._converted[key]

    def _weight(self, value: ir.Value, dtype: ir.DataType, shift: int) -> ir.Value:
        """A layer's weight in `dtype`, scaled by 2^-shift; computed only when the graph is written."""
        key = (value, dtype, shift)
        if key not in self._weights:
            self._weights[key] = self._new_weight(value, dtype, shift)
        return self._weights[key]

    def _new_weight(self, value: ir.Value, dtype: ir.DataType, shift: int) -> ir.Value:
        fp32 = value.const_value
        assert fp32 is not None
        name = f"{value.name}.{dtype.name.lower()}"
        make = partial(_converted_weight, fp32, dtype, shift, name)
        low = self.edit.weight(name, make, dtype, fp32.shape.numpy())
        if not self.emulate:
            return low
        # First in the file: if large weights are not converted at load time, ONNX Runtime runs nodes without
        # inputs that come late in the file first, and would hold half of the model's weights in fp32.
        return self.edit.before(self.edit.graph[0], "Cast", [low], f"{name}/wide", to=int(FLOAT))

    def output_to_fp32(
        self, node: ir.Node, dtype: ir.DataType, factor: ir.Value | None, bias: ir.Value | None = None
    ) -> None:
        """Cast the output of `node` to fp32, multiply it by `factor` and add the bias."""
        output, name = node.outputs[0], str(node.outputs[0].name)
        output.name = f"{name}/{dtype.name.lower()}"
        output.type = ir.TensorType(FLOAT if self.emulate else dtype)
        steps: list[tuple[str, list[ir.Value | None], str, dict[str, int]]] = []
        if self.emulate:
            steps.append(("Cast", [None], f"{name}/round", {"to": int(dtype)}))
        steps.append(("Cast", [None], f"{name}/wide", {"to": int(FLOAT)}))
        if factor is not None:
            steps.append(("Mul", [None, factor], f"{name}/unscaled", {}))
        if bias is not None:
            steps.append(("Add", [None, bias], f"{name}/biased", {}))
        place = list(self.edit.graph.outputs).index(output) if output.is_graph_output() else None
        self.edit.replace(node, steps)
        if place is not None:
            self.edit.graph.outputs[place].name = name

    def _power(self, shift: int) -> ir.Value:
        """2^shift as a graph constant."""
        return self.edit.constant(f"const.two_to_{shift}".replace("-", "minus_"), np.float32(2.0**shift))


def _converted_weight(
    fp32: ir.TensorProtocol, dtype: ir.DataType, shift: int, name: str
) -> ir.TensorProtocol:
    return ir.tensor((fp32.numpy() * np.float32(2.0**-shift)).astype(dtype.numpy()), name=name)


def _as_column(bias: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    return ir.tensor(bias.numpy().reshape(-1, 1, 1), name=name)


def merge_casts(graph: ir.Graph) -> None:
    """Remove the casts between two operators of the same 16-bit type: 16-bit -> fp32 -> 16-bit.

    Only where no other operator is between them. Scores, softmax and values then stay in the type throughout,
    which TensorRT's fused attention requires.
    """
    for node in list(graph):
        widen = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] is not None else None
        if widen is None or widen.op_type != "Cast" or widen.inputs[0] is None:
            continue
        source, target = widen.inputs[0], ir.DataType(node.attributes["to"].as_int())
        # fp32 -> 16-bit -> fp32 is a rounding, and stays
        if target != FLOAT and source.type == ir.TensorType(target):
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)
            if not widen.outputs[0].uses() and not widen.outputs[0].is_graph_output():
                graph.remove(widen, safe=True)
