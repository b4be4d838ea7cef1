"""Write an ONNX model one tensor at a time, so that its weights are never in memory twice.

Up to `SINGLE_FILE_LIMIT` everything goes into one file. The protobuf library would build the whole
message in memory and then serialise it, three copies in all; but an ONNX file is a ModelProto whose
field 7 is the graph, and a length-delimited message may be written piece by piece once its length is
known. So: the graph without weights, then each weight as one more `initializer` (field 5) of it.
Past the limit (protobuf ends at 2 GiB) weights go to `<name>.data` beside the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir
from onnx import ModelProto, TensorProto

SINGLE_FILE_LIMIT = 2**31 - 2**24  # 2 GiB less room for the graph itself
GRAPH_FIELD, INITIALIZER_FIELD, NAME_FIELD, RAW_DATA_FIELD = 7, 5, 8, 9
LENGTH_DELIMITED = 2
INLINE_ELEMENTS = 64  # shape constants stay in the graph proper
INLINE_BYTES = 8 * INLINE_ELEMENTS


def write_onnx(model: ir.Model, path: Path, *, external_data: bool = False) -> list[Path]:
    """Write `model` to `path`; returns the files written, the model first.

    Weights go to `<path>.data` with `external_data`, or when one file cannot hold them.
    """
    if external_data or weight_bytes(model) > SINGLE_FILE_LIMIT:
        data = path.with_name(path.name + ".data")
        ir.save(model, path, external_data=data.name)
        return [path, data]
    _write_single_file(model, path)
    return [path]


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers; none is made for it."""
    return sum(_tensor_of(value).nbytes for value in model.graph.initializers.values())


def share_weights(model: ir.Model, written: Path, path: Path) -> None:
    """Write `model` to `path`, beside `written`, whose weights it reads: from its data, or from itself."""
    inside = _weights_inside(written)
    beside = {} if inside else ir.load(written).graph.initializers  # without its weights it is small
    for name, value in model.graph.initializers.items():
        if name in inside:
            value.const_value = _external(_tensor_of(value), written, *inside[name])
        elif name in beside and isinstance(beside[name].const_value, ir.ExternalTensor):
            value.const_value = beside[name].const_value
    ir.save(model, path)


def _external(tensor: ir.TensorProtocol, written: Path, offset: int, length: int) -> ir.ExternalTensor:
    """The tensor as it lies in an ONNX file, which is a file like any other to whoever reads weights."""
    assert tensor.nbytes == length, f"{tensor.name} is another weight than the one in {written}"
    return ir.ExternalTensor(
        written.name,
        offset,
        length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=str(tensor.name),
        base_dir=written.parent,
    )


def _weights_inside(path: Path) -> dict[str, tuple[int, int]]:
    """name -> (offset, bytes) of every large weight that is stored in an ONNX file itself; none is read."""
    found: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        for field, start, end in _fields(file, 0, path.stat().st_size):
            if field != GRAPH_FIELD:
                continue
            for inner, begin, stop in _fields(file, start, end):
                if inner == INITIALIZER_FIELD:
                    parts = {number: (at, to) for number, at, to in _fields(file, begin, stop)}
                    at, to = parts.get(RAW_DATA_FIELD, (0, 0))
                    if to - at > INLINE_BYTES:
                        file.seek(parts[NAME_FIELD][0])
                        name = file.read(parts[NAME_FIELD][1] - parts[NAME_FIELD][0]).decode()
                        found[name] = (at, to - at)
    return found


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field, start, end) of the length-delimited fields of the message between two offsets."""
    while start < end:
        file.seek(start)
        tag = _read_varint(file)
        value = _read_varint(file)  # a number, or the length of what follows
        start = file.tell()
        if tag & 7 == LENGTH_DELIMITED:
            yield tag >> 3, start, start + value
            start += value


def _read_varint(file: BinaryIO) -> int:
    number = shift = 0
    while True:
        (byte,) = file.read(1)
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number


def _write_single_file(model: ir.Model, path: Path) -> None:
    large = [tensor for tensor in map(_tensor_of, model.graph.initializers.values()) if _is_large(tensor)]
    proto = without_weights(model)
    graph_bytes = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    headers = [_tensor_header(tensor) for tensor in large]
    sizes = [_message_size(header, tensor) for header, tensor in zip(headers, large, strict=True)]
    length = len(graph_bytes) + sum(_framed_size(INITIALIZER_FIELD, size) for size in sizes)
    with path.open("wb") as file:
        file.write(proto.SerializeToString(deterministic=True))
        file.write(_tag(GRAPH_FIELD) + _varint(length))
        file.write(graph_bytes)
        for header, size, tensor in zip(headers, sizes, large, strict=True):
            file.write(_tag(INITIALIZER_FIELD) + _varint(size) + header)
            file.write(_tag(RAW_DATA_FIELD) + _varint(tensor.nbytes))
            file.write(tensor.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _tensor_of(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def _is_large(tensor: ir.TensorProtocol) -> bool:
    return tensor.size > INLINE_ELEMENTS


def without_weights(model: ir.Model) -> ModelProto:
    """The model's message with small constants only; large initializers are set aside while it is made."""
    initializers = model.graph.initializers
    values = list(initializers.values())
    for value in values:
        if _is_large(_tensor_of(value)):
            initializers.pop(str(value.name))
    try:
        return ir.to_proto(model)
    finally:
        initializers.clear()
        for value in values:
            initializers.add(value)


def _tensor_header(tensor: ir.TensorProtocol) -> bytes:
    """A TensorProto up to its data."""
    return TensorProto(
        dims=tensor.shape.numpy(), data_type=int(tensor.dtype), name=tensor.name
    ).SerializeToString(deterministic=True)


def _message_size(header: bytes, tensor: ir.TensorProtocol) -> int:
    return len(header) + _framed_size(RAW_DATA_FIELD, tensor.nbytes)


def _framed_size(field: int, size: int) -> int:
    return len(_tag(field)) + len(_varint(size)) + size


def _tag(field: int) -> bytes:
    return _varint(field << 3 | LENGTH_DELIMITED)


def _varint(number: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, low bits first."""
    return bytes(_varint_bytes(number))


def _varint_bytes(number: int) -> Iterator[int]:
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number
