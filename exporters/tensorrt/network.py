"""Parse model.onnx into a strongly typed TensorRT network: it runs the types that the graph states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dinodeploy.errors import ExportError
from exporters.tensorrt.api import (
    STRONGLY_TYPED,
    Builder,
    ILayer,
    INetworkDefinition,
    ITensor,
    OnnxParser,
    ParserError,
    TensorRT,
    has,
)
from exporters.tensorrt.messages import Messages


def parse_network(
    trt: TensorRT, builder: Builder, logger: Any, messages: Messages, graph: Path
) -> tuple[INetworkDefinition, OnnxParser]:
    """Parse `graph` with its external weights. Raises ExportError naming the node that failed.

    The parser owns the weights, so it must live until the engine is built.
    """
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if has(trt, STRONGLY_TYPED) else 0
    network: INetworkDefinition = builder.create_network(flags)
    parser: OnnxParser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(graph))
    if not parsed or not network.num_outputs:  # RTX 1.7 reports success for a file that is not ONNX
        raise ExportError(f"{graph}: TensorRT cannot parse it: {_first_error(parser) or messages.reason()}")
    return network, parser


def _first_error(parser: OnnxParser) -> str:
    """Node, operator and description of the parser's first error; empty without an error."""
    if not parser.num_errors:
        return ""
    error: ParserError = parser.get_error(0)
    node = error.node_name() or "the file"
    operator = f" ({error.node_operator()})" if error.node_operator() else ""
    return f"{node}{operator}: {error.desc()}"


def describe_network(network: INetworkDefinition) -> dict[str, Any]:
    """Inputs, outputs, and the number of layers by kind and output type."""
    kinds: Counter[tuple[str, str]] = Counter()
    for layer in _layers(network):
        first: ITensor = layer.get_output(0) if layer.num_outputs else None
        kinds[_name(layer.type), _name(first.dtype) if first is not None else "none"] += 1
    layers: dict[str, dict[str, int]] = {}
    for (kind, dtype), count in sorted(kinds.items()):
        layers.setdefault(kind, {})[dtype] = count
    return {
        "inputs": [_tensor(network.get_input(index)) for index in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(index)) for index in range(network.num_outputs)],
        "layers": layers,
    }


def _layers(network: INetworkDefinition) -> Iterator[ILayer]:
    for index in range(network.num_layers):
        yield network.get_layer(index)


def _tensor(tensor: ITensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": _name(tensor.dtype), "shape": list(tensor.shape)}


def _name(value: Any) -> str:
    """`DataType.HALF` -> "HALF": not every version's enumerators have a name attribute."""
    return str(value).rpartition(".")[2]
