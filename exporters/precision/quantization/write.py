"""Write a quantised linear layer into the graph, in one of two dialects over the same stored weights.

    qdq   x ─> QuantizeLinear ─> DequantizeLinear ─> MatMul <─ DequantizeLinear <─ weights
          One symmetric scale for all activations, one a channel for weights. What TensorRT fuses into
          8-bit products, and what any runtime can compute, slowly.
    rows  x ─> / max|row| ─> u8 ─> MatMulIntegerToFloat ─> * max|row|
          For ONNX Runtime on CPUs, which are fast with u8 activations and s8 weights only. Every token has
          a scale of its own, so a picture's embedding does not depend on what else is in the batch.

In `rows`, activations have 127 levels around 64, not 255: on CPUs without VNNI the product adds pairs of
u8·s8 in 16 bits, and 2·127·127 is what fits. So the integers are the same on every CPU.

Shapes: L tokens, K input channels, N output channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import torch

from exporters.graph.edit import Edit
from exporters.graph.fuse_attention import MICROSOFT
from exporters.precision.quantization.plan import GroupPlan
from exporters.precision.quantization.rounding import FORMATS, ROW_LEVELS, TINY, weight_scale, weight_values

Dialect = Literal["qdq", "rows"]
TYPES = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}
OPSET, IR_VERSION = 19, 9  # the first with E4M3
MIDDLE = 64  # what zero is in u8


class Quantizer:
    """Quantises one MatMul after the other; layers of one input share its rounding."""

    def __init__(self, graph: ir.Graph, dialect: Dialect, form: str) -> None:
        self.edit = Edit(graph)
        self.dialect = dialect
        self.form = form
        self._rounded: dict[ir.Value, Any] = {}
        self._stems: set[str] = set()

    def quantize(self, node: ir.Node, plan: GroupPlan) -> None:
        """Replace a product of activations and a weight [K,N] by its 8-bit form."""
        x, wide = node.inputs
        assert x is not None
        assert wide is not None
        values, scale = self._weight(wide)
        smoothed = self._smoothed(x, plan, node)
        if self.dialect == "qdq":
            node.replace_input_with(0, self._qdq_activation(smoothed, plan, node))
            name = f"{values.name}/wide"
            node.replace_input_with(
                1, self.edit.before(node, "DequantizeLinear", [values, scale], name, axis=1)
            )
        else:
            self._rows(node, smoothed, values, scale)
        self.edit.drop_unused(wide)

    def _weight(self, wide: ir.Value) -> tuple[ir.Value, ir.Value]:
        lazy = wide.const_value
        assert isinstance(lazy, ir.LazyTensor)
        stem = f"{wide.name}.{self.form}"
        rows, columns = lazy.shape.numpy()
        values = self.edit.weight(
            stem, partial(_values, lazy, self.form, stem), TYPES[self.form], (rows, columns)
        )
        name = f"{stem}.scale"
        make = partial(_scales, lazy, self.form, name)
        return values, self.edit.weight(name, make, ir.DataType.FLOAT, (columns,))

    def _smoothed(self, x: ir.Value, plan: GroupPlan, before: ir.Node) -> ir.Value:
        if not plan.needs_mul:
            return x
        name = f"{plan.group.path}.smoothing"
        factor = self.edit.constant(name, (1 / plan.smoothing).numpy().astype(np.float32))
        return self.edit.before(before, "Mul", [x, factor], f"{name}/Mul")

    def _qdq_activation(self, x: ir.Value, plan: GroupPlan, before: ir.Node) -> ir.Value:
        if x not in self._rounded:
            stem = scales = f"{plan.group.path}/{self.form}"
            if stem in self._stems:  # q of the graph for CLS alone takes one row of what k and v take
                stem = f"{x.name}/{self.form}"
            self._stems.add(stem)
            form = FORMATS[self.form]
            scale = self.edit.constant(f"{scales}.scale", np.float32(max(plan.largest, TINY) / form.largest))
            zero = self.edit.constant(f"const.zero_{self.form}", np.zeros((), TYPES[self.form].numpy()))
            narrow = self.edit.before(before, "QuantizeLinear", [x, scale, zero], stem)
            name = f"{stem}/wide"
            self._rounded[x] = self.edit.before(before, "DequantizeLinear", [narrow, scale, zero], name)
        rounded: ir.Value = self._rounded[x]
        return rounded

    def _rows(self, node: ir.Node, x: ir.Value, values: ir.Value, scale: ir.Value) -> None:
        levels, top = self._row_levels(x, node)
        step, middle = self._row_grid()
        name = str(node.name)
        product = self.edit.before(
            node,
            "MatMulIntegerToFloat",
            [levels, values, step, scale, middle],
            f"{name}/int8",
            domain=MICROSOFT,
        )
        output = self.edit.before(node, "Mul", [product, top], f"{name}/unscaled")
        node.outputs[0].replace_all_uses_with(output)
        self.edit.graph.remove(node, safe=True)

    def _row_levels(self, x: ir.Value, before: ir.Node) -> tuple[ir.Value, ir.Value]:
        """x [B,L,K] -> its levels, u8, and each row's largest magnitude [B,L,1]."""
        if x not in self._rounded:
            edit, stem = self.edit, f"{x.name}/row"
            axis = edit.constant("const.last_axis", np.array([-1], np.int64))
            tiny = edit.constant("const.tiny", np.float32(TINY))
            size = edit.before(before, "Abs", [x], f"{stem}.abs")
            top = edit.before(before, "ReduceMax", [size, axis], f"{stem}.max", keepdims=1)
            top = edit.before(before, "Max", [top, tiny], f"{stem}.top")
            # one division a row: dividing every element costs twice as much
            one = edit.constant("const.one", np.float32(1))
            factor = edit.before(before, "Div", [one, top], f"{stem}.factor")
            unit = edit.before(before, "Mul", [x, factor], f"{stem}.unit")
            step, middle = self._row_grid()
            levels = edit.before(before, "QuantizeLinear", [unit, step, middle], f"{stem}.levels")
            self._rounded[x] = (levels, top)
        levels, top = self._rounded[x]
        return levels, top

    def _row_grid(self) -> tuple[ir.Value, ir.Value]:
        """The distance between levels of a row whose largest is 1, and the level of zero."""
        step = self.edit.constant("const.row_step", np.float32(1 / ROW_LEVELS))
        return step, self.edit.constant("const.middle", np.uint8(MIDDLE))


def _wide(lazy: ir.LazyTensor) -> torch.Tensor:
    """The weight [N,K]; it is stored as its product wants it, [K,N]."""
    return torch.from_numpy(lazy.numpy().T.copy())


def _values(lazy: ir.LazyTensor, form: str, name: str) -> ir.TensorProtocol:
    values = weight_values(_wide(lazy), FORMATS[form]).numpy().T.astype(TYPES[form].numpy())
    return ir.tensor(np.ascontiguousarray(values), name=name)


def _scales(lazy: ir.LazyTensor, form: str, name: str) -> ir.TensorProtocol:
    return ir.tensor(weight_scale(_wide(lazy), FORMATS[form])[:, 0].numpy(), name=name)
