"""Precision recipes: which role runs in which type, and the pass that writes it into the graph.

TensorRT 11 has no precision flags: what the ONNX says is what runs. So a recipe is a literal table, and
everything it does not name stays fp32: the residual stream, LayerNorm, LayerScale, biases, GELU, RoPE's
table and its application. A residual stream of 155,000 (ViT-L) or 87,000 (H+) is why.

What a 16-bit product puts out must fit too: fp16 ends at 65,504. A linear layer whose input or output came
near it on the golden photographs is scaled by powers of two, which are exact: its input by 2^-i, its
weights by 2^-w, the result, back in fp32, by 2^(i+w).

The same recipe is written in two ways:

    typed     products and attention really are 16-bit operators: for TensorRT and CUDA
    emulated  every value that would be 16-bit is rounded to it and back, and computed in fp32: for CPUs.
              ONNX Runtime on a CPU has no 16-bit products; given the typed graph it computes in fp32 from
              end to end and leaves the roundings out, so an overflow would pass its judge unseen.

Values between roundings are fp32 in both, as in tensor cores, which accumulate in fp32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir

from exporters.calibrate import LinearRange

Style = Literal["typed", "emulated"]


@dataclass(frozen=True)
class Recipe:
    """Role -> type. Roles that are not named run in fp32."""

    name: str
    roles: Mapping[str, ir.DataType]
    largest: float = math.inf  # the largest finite value of the narrow type
    headroom: float = 1.0  # how far above what the golden photographs showed a value may go


FP16, BF16 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16
_PRODUCTS = ("qkv", "scores", "softmax", "values", "out", "ffn_in", "ffn_out")

RECIPES: dict[str, Recipe] = {
    "fp32": Recipe("fp32", {}),
    # headroom 16: golden photographs are few, and fp16 has four more bits of range than a GEMM needs
    "fp16": Recipe("fp16", dict.fromkeys(_PRODUCTS, FP16), largest=65504.0, headroom=16.0),
    "bf16": Recipe("bf16", dict.fromkeys(_PRODUCTS, BF16)),
}

# (operator, module path) -> role. The path is what graph.py puts before the operator in a node's name.
_ROLES: tuple[tuple[str, str, str], ...] = (
    ("MatMul", r"blocks\.\d+\.attn\.[qkv]", "qkv"),
    ("MatMul", r"blocks\.\d+\.attn\.proj", "out"),
    ("MatMul", r"blocks\.\d+\.mlp\.(fc1|w1|w2)", "ffn_in"),
    ("MatMul", r"blocks\.\d+\.mlp\.(fc2|w3)", "ffn_out"),
    ("MatMul", r"blocks\.\d+\.attn", "scores or values"),
    ("Softmax", r"blocks\.\d+\.attn", "softmax"),
)


def role_of(node: ir.Node) -> str | None:
    """The role of a node, or None for what no recipe touches."""
    path = str(node.name).rpartition("/")[0]
    for operator, pattern, role in _ROLES:
        if node.op_type == operator and re.fullmatch(pattern, path):
            return role if role != "scores or values" else _half_of_attention(node)
    return None


def _half_of_attention(product: ir.Node) -> str:
    """The second product of attention takes what softmax gives, through a rounding or not."""
    producer = product.inputs[0].producer() if product.inputs[0] is not None else None
    while producer is not None and producer.op_type == "Cast" and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    return "values" if producer is not None and producer.op_type == "Softmax" else "scores"


def apply_recipe(model: ir.Model, recipe: Recipe, style: Style, ranges: Mapping[str, LinearRange]) -> None:
    """Write `recipe` into `model`, in place. `ranges` are by linear layer's path (`blocks.3.mlp.fc2`)."""
    writer = _Writer(model.graph, style)
    plan = [(node, role) for node in model.graph if (role := role_of(node)) in recipe.roles]
    for node, role in plan:
        path = str(node.name).rpartition("/")[0]
        shifts = _shifts(ranges[path], recipe) if path in ranges else (0, 0)
        writer.narrow(node, recipe.roles[str(role)], *shifts)
    _merge_casts(model.graph)


def _shifts(seen: LinearRange, recipe: Recipe) -> tuple[int, int]:
    """(i, w): powers of two to take off a layer's input and weights so that both ends fit."""
    limit = recipe.largest / recipe.headroom
    i = max(0, math.ceil(math.log2(seen.largest_input / limit))) if seen.largest_input > limit else 0
    left = seen.largest_output / 2**i
    w = max(0, math.ceil(math.log2(left / limit))) if left > limit else 0
    return i, w


class _Writer:
    """Narrows one node after the other; values that are narrowed twice share their Cast."""

    def __init__(self, graph: ir.Graph, style: Style) -> None:
        self.graph = graph
        self.emulate = style == "emulated"
        self._narrowed: dict[tuple[ir.Value, ir.DataType, int], ir.Value] = {}

    def narrow(self, node: ir.Node, dtype: ir.DataType, input_shift: int, weight_shift: int) -> None:
        """Run `node` in `dtype`; its result is fp32 again for whoever takes it."""
        for index, value in enumerate(node.inputs):
            assert value is not None
            if value.const_value is not None and value.name in self.graph.initializers:
                narrow = self._weight(value, dtype, weight_shift, node)
            else:
                narrow = self._activation(value, dtype, input_shift if index == 0 else 0, node)
            node.replace_input_with(index, narrow)
        self._widen_output(node, dtype, input_shift + weight_shift)

    def _activation(self, value: ir.Value, dtype: ir.DataType, shift: int, before: ir.Node) -> ir.Value:
        key = (value, dtype, shift)
        if key not in self._narrowed:
            stem = f"{value.name}/narrow{shift or ''}"
            scaled = self._scale(value, -shift, before, stem) if shift else value
            narrow = self._cast(scaled, dtype, before, stem)
            self._narrowed[key] = (
                self._cast(narrow, ir.DataType.FLOAT, before, f"{stem}/wide") if self.emulate else narrow
            )
        return self._narrowed[key]

    def _weight(self, value: ir.Value, dtype: ir.DataType, shift: int, before: ir.Node) -> ir.Value:
        """The layer's weight in `dtype`, made when it is written, like the fp32 one it replaces."""
        wide = value.const_value
        assert isinstance(wide, ir.LazyTensor)
        name = f"{value.name}.{dtype.name.lower()}"
        narrow = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))
        narrow.const_value = ir.LazyTensor(
            partial(_narrow_tensor, wide, dtype, shift, name), dtype=dtype, shape=wide.shape, name=name
        )
        self.graph.initializers.add(narrow)
        self.graph.initializers.pop(str(value.name))
        return self._cast(narrow, ir.DataType.FLOAT, before, f"{name}/wide") if self.emulate else narrow

    def _widen_output(self, node: ir.Node, dtype: ir.DataType, shift: int) -> None:
        output = node.outputs[0]
        users = list(output.uses())
        name = str(output.name)
        output.name, output.type = f"{name}/{dtype.name.lower()}", ir.TensorType(dtype)
        after: list[ir.Node] = []

        def add(operator: str, inputs: list[ir.Value], result: str, **attributes: int) -> ir.Value:
            made = ir.node(operator, inputs, attributes=attributes, name=result)
            made.outputs[0].name = result
            after.append(made)
            return made.outputs[0]

        value: ir.Value = output
        if self.emulate:
            output.type = ir.TensorType(ir.DataType.FLOAT)
            value = add("Cast", [value], f"{name}/round", to=int(dtype))
        value = add("Cast", [value], f"{name}/wide", to=int(ir.DataType.FLOAT))
        if shift:
            value = add("Mul", [value, self._power(shift)], f"{name}/unscaled")
        self.graph.insert_after(node, after)
        for user, index in users:
            user.replace_input_with(index, value)

    def _cast(self, value: ir.Value, dtype: ir.DataType, before: ir.Node, name: str) -> ir.Value:
        return self._insert("Cast", [value], before, name, to=int(dtype))

    def _scale(self, value: ir.Value, shift: int, before: ir.Node, stem: str) -> ir.Value:
        return self._insert("Mul", [value, self._power(shift)], before, f"{stem}/scaled")

    def _insert(
        self, operator: str, inputs: list[ir.Value], before: ir.Node, name: str, **attributes: int
    ) -> ir.Value:
        made = ir.node(operator, inputs, attributes=attributes, name=name)
        made.outputs[0].name = name
        self.graph.insert_before(before, made)
        return made.outputs[0]

    def _power(self, shift: int) -> ir.Value:
        """2^shift as a constant of the graph."""
        name = f"const.two_to_{shift}".replace("-", "minus_")
        if name not in self.graph.initializers:
            tensor = ir.tensor(np.float32(2.0**shift), name=name)
            value = ir.Value(
                name=name, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor
            )
            self.graph.initializers.add(value)
        return self.graph.initializers[name]


def _narrow_tensor(wide: ir.LazyTensor, dtype: ir.DataType, shift: int, name: str) -> ir.TensorProtocol:
    return ir.tensor((wide.numpy() * np.float32(2.0**-shift)).astype(dtype.numpy()), name=name)


def _merge_casts(graph: ir.Graph) -> None:
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
        if target != ir.DataType.FLOAT and source.type == ir.TensorType(target):
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)
            if not widen.outputs[0].uses() and not widen.outputs[0].is_graph_output():
                graph.remove(widen, safe=True)
