"""Summarise an ONNX file for `dinodeploy inspect`. External weights are not read."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import onnx_ir as ir

from exporters.graph.files import read_onnx
from exporters.precision.recipes import role_of

PRODUCTS = ("MatMul", "MatMulIntegerToFloat", "Gemm", "Conv")


def summarize_onnx(path: Path) -> dict[str, Any]:
    """Inputs, outputs, operators by count, types by role, weights, metadata. Raises BundleError."""
    model = read_onnx(path, weights=False)
    graph = model.graph
    return {
        "opset": {domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        "inputs": {str(value.name): shape_of(value) for value in graph.inputs},
        "outputs": {str(value.name): shape_of(value) for value in graph.outputs},
        "operators": dict(Counter(node.op_type for node in graph).most_common()),
        "types": types_by_role(graph),
        "weights": dict(Counter(stored_type(value) for value in graph.initializers.values())),
        "metadata": dict(model.metadata_props),
    }


def types_by_role(graph: ir.Graph) -> dict[str, dict[str, int]]:
    """role -> type -> number of operators; `products` counts every matrix product."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for node in graph:
        if node.inputs and node.inputs[0] is not None:
            role = role_of(node)
            dtype = stored_type(node.inputs[0])
            if role is not None:
                found[role][dtype] += 1
            if node.op_type in PRODUCTS:
                found["products"][dtype] += 1
    return {role: dict(counts) for role, counts in found.items()}


def stored_type(value: ir.Value) -> str:
    """A value's type, 8 bits if it was rounded to them; what is not written down is a Cast's, or fp32."""
    producer = value.producer()
    if producer is not None and producer.op_type == "Cast":
        return ir.DataType(producer.attributes["to"].as_int()).name
    if producer is not None and producer.op_type == "QuantizeLinear":
        zero_point = producer.inputs[2]
        name = zero_point.dtype.name if zero_point is not None and zero_point.dtype is not None else "UINT8"
        return "INT8" if name == "UINT8" else name  # u8 is how ONNX Runtime's CPU spells 8 bits
    if producer is not None and producer.op_type == "DequantizeLinear" and producer.inputs[0] is not None:
        return stored_type(producer.inputs[0])
    return value.dtype.name if value.dtype is not None else ir.DataType.FLOAT.name


def shape_of(value: ir.Value) -> list[int | str]:
    return [dim if isinstance(dim, int) else str(dim) for dim in value.shape or ()]
