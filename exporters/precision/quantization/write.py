"""Quantise linear layers in the graph, in one of three forms that share the stored weights.

    qdq        x ─> QuantizeLinear ─> DequantizeLinear ─> MatMul <─ DequantizeLinear <─ weights
                                                            └─> Cast to fp32 ─> * scales
               One symmetric scale for all activations, one per output channel for weights. TensorRT fuses
               this into 8-bit products; other runtimes compute it too, slowly.
    per_token  x ─> / max|token| ─> u8 ─> MatMulIntegerToFloat ─> * max|token|
               Per-token dynamic quantisation for ONNX Runtime on CPUs, which is fast only with u8 activations
               and s8 weights. Every token has its own scale, so an image's embedding does not depend on the
               rest of the batch.
    vnni       x ─> u8 ─> MatMulIntegerToFloat
               The same operators for CPUs with VNNI, with the static scale of `qdq` and 255 levels. Layers
               whose outliers do not allow a static scale have one per token here too.

In `qdq`, products are fp16: fp32 ones would cost a GPU more memory traffic than 8 bits save. So the two
DequantizeLinear have powers of two for scales, so small that no sum of products can leave fp16's range, and
the true scales follow in fp32. With the true scales in fp16 TensorRT-RTX 1.7.1 writes the sums unscaled,
which overflow, and multiplies them by a subnormal number.

In `per_token`, activations use 127 levels around 64, so that the integers are the same on every CPU
(`rounding.py` explains). A static scale would have to clip to them too, because u8 does not.

Shapes: B batch, L tokens, K input channels, N output channels.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import torch

from exporters.graph.edit import Edit
from exporters.graph.fuse_attention import MICROSOFT
from exporters.precision.low_precision import LowPrecisionConverter
from exporters.precision.quantization.rounding import (
    FORMATS,
    PORTABLE,
    TINY,
    VNNI,
    Format,
    weight_scale,
    weight_values,
)
from exporters.precision.quantization.scheme import GroupScheme
from exporters.precision.recipes import LIMITS

GraphForm = Literal["qdq", "per_token", "vnni"]
TYPES = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}
HALF = ir.DataType.FLOAT16
OPSET, IR_VERSION = 19, 9  # the first with the E4M3 type


class Quantizer:
    """Quantises MatMul nodes; layers with the same input share its rounding."""

    def __init__(
        self, graph: ir.Graph, graph_form: GraphForm, form: str, converter: LowPrecisionConverter
    ) -> None:
        self.edit = Edit(graph)
        self.converter = converter  # writes fp16 as fp16, or emulates it
        self.graph_form = graph_form
        self.form = form  # int8 or fp8
        self.levels = VNNI if graph_form == "vnni" else PORTABLE
        self._rounded: dict[ir.Value, Any] = {}
        self._stems: set[str] = set()

    def quantize(self, node: ir.Node, scheme: GroupScheme) -> None:
        """Replace a product of activations [B,L,K] and a weight [K,N] by its 8-bit form."""
        x, fp32 = node.inputs
        assert x is not None
        assert fp32 is not None
        values, scale = self._weight(fp32)
        smoothed = self._smoothed(x, scheme, node)
        if self.graph_form == "qdq":
            self._qdq(node, smoothed, values, scale, scheme)
        elif self.graph_form == "vnni" and scheme.static:
            self._static(node, smoothed, values, scale, scheme)
        else:
            self._per_token(node, smoothed, values, scale)
        self.edit.drop_unused(fp32)

    def _weight(self, fp32: ir.Value) -> tuple[ir.Value, ir.Value]:
        """An fp32 weight [K,N] -> its 8-bit values [K,N] and scales [N]."""
        lazy = fp32.const_value
        assert isinstance(lazy, ir.LazyTensor)
        stem = f"{fp32.name}.{self.form}"
        rows, columns = lazy.shape.numpy()
        values = self.edit.weight(
            stem, partial(_values, lazy, self.form, stem), TYPES[self.form], (rows, columns)
        )
        name = f"{stem}.scale"
        make = partial(_scales, lazy, self.form, name)
        return values, self.edit.weight(name, make, ir.DataType.FLOAT, (columns,))

    def _smoothed(self, x: ir.Value, scheme: GroupScheme, before: ir.Node) -> ir.Value:
        if not scheme.needs_mul:
            return x
        name = f"{scheme.group.path}.smoothing"
        factor = self.edit.constant(name, (1 / scheme.smoothing).numpy().astype(np.float32))
        return self.edit.before(before, "Mul", [x, factor], f"{name}/Mul")

    def _qdq(
        self, node: ir.Node, x: ir.Value, values: ir.Value, scale: ir.Value, scheme: GroupScheme
    ) -> None:
        """Levels times powers of two are multiplied in fp16, and the product in fp32 by the scales."""
        assert values.const_value is not None
        rows, _ = values.const_value.shape.numpy()
        first, second = fitting_exponents(rows, FORMATS[self.form])
        rounded, size = self._qdq_activation(x, scheme, first, node)
        assert size.const_value is not None
        name = f"{values.name}/wide"
        wide = self.edit.before(node, "DequantizeLinear", [values, self._power(-second)], name)
        node.replace_input_with(0, rounded)
        node.replace_input_with(1, wide)
        both = first + second
        back = np.float32(size.const_value.numpy() * 2.0**both)
        step = self.edit.constant(f"{size.name}.times_two_to_{both}", back)
        unscale = self.edit.before(node, "Mul", [scale, step], f"{values.name}/unscale")
        self.converter.output_to_fp32(node, HALF, unscale)

    def _power(self, exponent: int) -> ir.Value:
        """2^exponent in the type of what is dequantised."""
        dtype = np.float32 if self.converter.emulate else np.float16
        name = f"const.two_to_{exponent}_{np.dtype(dtype).name}".replace("-", "minus_")
        return self.edit.constant(name, dtype(2.0**exponent))

    def _qdq_activation(
        self, x: ir.Value, scheme: GroupScheme, exponent: int, before: ir.Node
    ) -> tuple[ir.Value, ir.Value]:
        """The levels of x times 2^-exponent, and the scale of x."""
        if x not in self._rounded:
            stem = scales = f"{scheme.group.path}/{self.form}"
            if stem in self._stems:  # in the CLS-only graph, q's input is one row of k's and v's
                stem = f"{x.name}/{self.form}"
            self._stems.add(stem)
            form = FORMATS[self.form]
            scale = self.edit.constant(
                f"{scales}.scale", np.float32(max(scheme.largest, TINY) / form.largest)
            )
            zero = self.edit.constant(f"const.zero_{self.form}", np.zeros((), TYPES[self.form].numpy()))
            levels = self.edit.before(before, "QuantizeLinear", [x, scale, zero], stem)
            wanted = [levels, self._power(-exponent), zero]
            self._rounded[x] = self.edit.before(before, "DequantizeLinear", wanted, f"{stem}/wide"), scale
        rounded, scale = self._rounded[x]
        return rounded, scale

    def _static(
        self, node: ir.Node, x: ir.Value, values: ir.Value, scale: ir.Value, scheme: GroupScheme
    ) -> None:
        if x not in self._rounded:
            size = np.float32(max(scheme.largest, TINY) / self.levels.largest)
            step = self.edit.constant(f"{scheme.group.path}/{self.form}.scale", size)
            levels = self.edit.before(node, "QuantizeLinear", [x, step, self._middle()], f"{x.name}/levels")
            self._rounded[x] = levels, step
        levels, step = self._rounded[x]
        output = self._product(node, levels, values, step, scale)
        node.outputs[0].replace_all_uses_with(output)
        self.edit.graph.remove(node, safe=True)

    def _product(
        self, node: ir.Node, levels: ir.Value, values: ir.Value, step: ir.Value, scale: ir.Value
    ) -> ir.Value:
        inputs = [levels, values, step, scale, self._middle()]
        name = f"{node.name}/int8"
        return self.edit.before(node, "MatMulIntegerToFloat", inputs, name, domain=MICROSOFT)

    def _per_token(self, node: ir.Node, x: ir.Value, values: ir.Value, scale: ir.Value) -> None:
        levels, top = self._token_levels(x, node)
        product = self._product(node, levels, values, self._token_step(), scale)
        output = self.edit.before(node, "Mul", [product, top], f"{node.name}/unscaled")
        node.outputs[0].replace_all_uses_with(output)
        self.edit.graph.remove(node, safe=True)

    def _token_levels(self, x: ir.Value, before: ir.Node) -> tuple[ir.Value, ir.Value]:
        """x [B,L,K] -> its u8 levels [B,L,K], and each token's largest magnitude [B,L,1]."""
        if x not in self._rounded:
            edit, stem = self.edit, f"{x.name}/row"
            axis = edit.constant("const.last_axis", np.array([-1], np.int64))
            tiny = edit.constant("const.tiny", np.float32(TINY))
            size = edit.before(before, "Abs", [x], f"{stem}.abs")
            top = edit.before(before, "ReduceMax", [size, axis], f"{stem}.max", keepdims=1)
            top = edit.before(before, "Max", [top, tiny], f"{stem}.top")
            # one division per token: dividing every element costs twice as much
            one = edit.constant("const.one", np.float32(1))
            factor = edit.before(before, "Div", [one, top], f"{stem}.factor")
            unit = edit.before(before, "Mul", [x, factor], f"{stem}.unit")
            grid = [unit, self._token_step(), self._middle()]
            levels = edit.before(before, "QuantizeLinear", grid, f"{stem}.levels")
            self._rounded[x] = (levels, top)
        levels, top = self._rounded[x]
        return levels, top

    def _token_step(self) -> ir.Value:
        """The step between the levels of a token whose maximum is 1."""
        return self.edit.constant("const.row_step", np.float32(1 / self.levels.largest))

    def _middle(self) -> ir.Value:
        """The level of zero."""
        return self.edit.constant("const.middle", np.uint8(self.levels.middle))


def fitting_exponents(inputs: int, form: Format) -> tuple[int, int]:
    """Exponents for the two factors of `inputs` products; any sum, times 2^-both, is within fp16."""
    largest, _ = LIMITS[HALF]
    both = max(0, math.ceil(math.log2(inputs * form.largest**2 / largest)))
    return both // 2, both - both // 2


def _fp32_weight(lazy: ir.LazyTensor) -> torch.Tensor:
    """The weight as [N,K]; the graph stores it as [K,N] for its MatMul."""
    return torch.from_numpy(lazy.numpy().T.copy())


def _values(lazy: ir.LazyTensor, form: str, name: str) -> ir.TensorProtocol:
    values = weight_values(_fp32_weight(lazy), FORMATS[form]).numpy().T.astype(TYPES[form].numpy())
    return ir.tensor(np.ascontiguousarray(values), name=name)


def _scales(lazy: ir.LazyTensor, form: str, name: str) -> ir.TensorProtocol:
    return ir.tensor(weight_scale(_fp32_weight(lazy), FORMATS[form])[:, 0].numpy(), name=name)
