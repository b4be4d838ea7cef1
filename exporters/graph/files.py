"""Read ONNX files, and write graphs that share one external file of weights.

`onnx_ir` reads weights when they are used and writes them one at a time, so that a lazily computed weight is
never in memory twice: writing a 7B needs the memory of its largest weight.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import ModelProto

from dinodeploy.bundle.external_data import check_external_data
from dinodeploy.bundle.manifest import PLAIN_NAME
from dinodeploy.errors import BundleError, reason_of
from dinodeploy.files.regular import is_regular


def read_onnx(path: Path, *, weights: bool = True) -> ir.Model:
    """The model in `path`. Raises BundleError if it is not ONNX, or reads weights outside its folder.

    weights: False for a caller that reads no weights, so the files that hold them need not be there.
    """
    if weights:
        beside = {file.name: file.stat().st_size for file in path.parent.iterdir() if is_regular(file)}
        check_external_data(path, {name: size for name, size in beside.items() if PLAIN_NAME.fullmatch(name)})
    try:
        model = ir.load(path)
    except (DecodeError, ir.serde.SerdeError, OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path} is not an ONNX file: {reason_of(error)}") from error
    if not len(model.graph):
        raise BundleError(f"{path} is not an ONNX file: it has no graph")
    return model


INLINE_BYTES = 256  # smaller constants (shapes, scales) stay in the graph, where parsers need them


def write_onnx(model: ir.Model, path: Path) -> tuple[Path, Path]:
    """Write `model` to `path` and its weights to `<path>.data`; returns both paths."""
    data = path.with_name(f"{path.name}.data")
    ir.save(model, path, external_data=data.name, size_threshold_bytes=INLINE_BYTES)
    return path, data


def share_weights(model: ir.Model, written: Path, path: Path) -> None:
    """Write `model` to `path`, in the folder of `written`; it reads that graph's weights, by name."""
    stored = ir.load(written).graph.initializers
    for name, value in model.graph.initializers.items():
        tensor = stored[name].const_value if name in stored else None
        if isinstance(tensor, ir.ExternalTensor):
            assert tensor.nbytes == _tensor_of(value).nbytes, f"{name} is another weight than in {written}"
            value.const_value = tensor
    ir.save(model, path)


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers; computes none of them."""
    return sum(_tensor_of(value).nbytes for value in model.graph.initializers.values())


def without_weights(model: ir.Model) -> ModelProto:
    """The model as protobuf with its small constants only; large initializers are not computed."""
    initializers = model.graph.initializers
    values = list(initializers.values())
    for value in values:
        if _tensor_of(value).nbytes > INLINE_BYTES:
            initializers.pop(str(value.name))
    try:
        return ir.to_proto(model)
    finally:
        initializers.clear()
        for value in values:
            initializers.add(value)


def _tensor_of(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value
