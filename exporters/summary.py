"""What an ONNX file holds, for `dinodeploy inspect`; weights are not read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from dinodeploy.errors import BundleError


def summarize_onnx(path: Path) -> dict[str, Any]:
    """Inputs, outputs, operators by count, opset, weights, metadata. Raises BundleError."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise BundleError(f"{path} is no ONNX file: {error}") from error
    graph = model.graph
    if not graph.node:
        raise BundleError(f"{path} is no ONNX file: it holds no graph")
    return {
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": {value.name: _shape(value) for value in graph.input},
        "outputs": {value.name: _shape(value) for value in graph.output},
        "operators": dict(Counter(node.op_type for node in graph.node).most_common()),
        "weights": len(graph.initializer),
        "types": dict(Counter(onnx.TensorProto.DataType.Name(w.data_type) for w in graph.initializer)),
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
    }


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
