"""Check where an ONNX graph keeps its weights, before any runtime reads it.

A graph may store a tensor in another file, by name, offset and length. A runtime opens that file without
asking, so each of them must be one of the engine's files, whose hashes have been verified. The graph is read
as protobuf, without the package onnx: initializers, attributes, subgraphs, functions, sparse tensors.

Source: onnx.proto and "ONNX external data" (https://onnx.ai/onnx/repo-docs/ExternalData.html);
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from dinodeploy.errors import BundleError, reason_of
from dinodeploy.files.regular import is_regular, open_regular

# message -> field number -> the message it holds; only those that lead to a tensor
FIELDS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
# Fields that hold one message: parsers merge two of them, so that neither says where the tensor is.
SINGLE: dict[str, frozenset[int]] = {
    "ModelProto": frozenset({7}),
    "TrainingInfoProto": frozenset({1, 2}),
    "AttributeProto": frozenset({5, 6, 22}),
    "SparseTensorProto": frozenset({1, 2}),
}
# Top fields of a model that hold numbers. Wire types must agree with the names: a file that is protobuf by
# chance, such as XML, is another format to a runtime that looks at the content.
NUMBERS = frozenset({1, 5})
TEXTS = frozenset({2, 3, 4, 6, 7, 8, 14, 20, 25})
OP_TYPE = 4  # of a node
OPENS_FILES = frozenset({b"EPContext"})  # operators of ONNX Runtime that name a file of their own
EXTERNAL_DATA, DATA_LOCATION, EXTERNAL = 13, 14, 1  # of a tensor
KEYS = frozenset({"location", "offset", "length", "checksum"})
MAX_DEPTH = 64  # messages inside messages; subgraphs of our exports: none
MAX_FIELDS = 2_000_000  # measured: 60,000 in a 7B's graph

Span = tuple[int, int]  # begin and end in the file
Field = tuple[int, int, int, int]  # number, wire type, and the span of its content (or a varint's value)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}


def check_external_data(graph: Path, sizes: Mapping[str, int]) -> None:
    """Check that every tensor which `graph` stores outside itself is in one of the files of `sizes`.

    sizes: name of a file beside the graph -> its bytes. Raises BundleError for any other place, for a link,
    and for a file that is not ONNX.
    """
    try:
        with (
            open_regular(graph) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            places = list(_places(data))
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise BundleError(f"{graph} is not an ONNX file that can be read: {reason_of(error)}") from error
    for entries in places:
        _check(graph, entries, sizes)
    for name in sorted({entries["location"] for entries in places}):
        if not is_regular(graph.with_name(name)):
            raise BundleError(
                f"{graph}: a tensor is in {name!r}, which is missing or a link; wanted a regular file"
            )


def _check(graph: Path, entries: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    name = entries.get("location", "")
    if name not in sizes:
        known = ", ".join(sorted(sizes)[:5])
        raise BundleError(
            f"{graph}: a tensor is in {name!r}; wanted a file beside the graph that belongs to it ({known}); "
            "export again"
        )
    offset, length = entries.get("offset", "0"), entries.get("length", "")
    for number in (offset, length):
        if not (number.isascii() and number.isdigit() and len(number) < 20):
            raise BundleError(
                f"{graph}: a tensor in {name!r} has offset {offset!r} and length {length!r}; wanted numbers"
            )
    if int(offset) + int(length) > sizes[name]:
        raise BundleError(
            f"{graph}: a tensor in {name!r} ends at byte {int(offset) + int(length):,} of {sizes[name]:,}; "
            "copy or export the bundle again"
        )


def _places(data: mmap.mmap) -> Iterator[dict[str, str]]:
    """The external data entries of every tensor that has any. Raises ValueError."""
    ahead: list[tuple[str, Span, int]] = [("ModelProto", (0, len(data)), 0)]
    fields = 0
    while ahead:
        kind, span, depth = ahead.pop()
        inner, single, seen = FIELDS.get(kind, {}), SINGLE.get(kind, frozenset()), set[int]()
        entries: list[Span] = []
        external = False
        for number, wire, begin, end in _fields(data, *span):
            fields += 1
            if kind == "ModelProto":
                _check_top_field(number, wire)
            if number in inner and wire == _BYTES:
                if number in single and number in seen:
                    raise ValueError(f"field {number} of a {kind} is given twice")
                seen.add(number)
                ahead.append((inner[number], (begin, end), depth + 1))
            elif kind == "TensorProto" and number == EXTERNAL_DATA and wire == _BYTES:
                entries.append((begin, end))
            elif kind == "TensorProto" and number == DATA_LOCATION and wire == _VARINT:
                external = external or begin == EXTERNAL
            elif kind == "NodeProto" and number == OP_TYPE and data[begin:end] in OPENS_FILES:
                raise ValueError(f"the operator {data[begin:end].decode()} may open any file")
        if depth > MAX_DEPTH or fields > MAX_FIELDS:
            raise ValueError(f"wanted at most {MAX_FIELDS:,} fields, nested at most {MAX_DEPTH} deep")
        if entries or external:
            yield _entries(data, entries)


def _check_top_field(number: int, wire: int) -> None:
    if (number in NUMBERS and wire != _VARINT) or (number in TEXTS and wire != _BYTES):
        raise ValueError(f"field {number} of a ModelProto is of another type than ONNX gives it")


def _entries(data: mmap.mmap, spans: list[Span]) -> dict[str, str]:
    """The keys and values of a tensor's external data, each key once."""
    found: dict[str, str] = {}
    for span in spans:
        texts = {1: "", 2: ""}
        for number, wire, begin, end in _fields(data, *span):
            if number not in texts or wire != _BYTES or texts[number]:
                raise ValueError("external data of a tensor is not pairs of key and value")
            texts[number] = data[begin:end].decode()
        if texts[1] in found or texts[1] not in KEYS:
            raise ValueError(f"external data of a tensor has {texts[1][:40]!r} twice, or no such key exists")
        found[texts[1]] = texts[2]
    return {"location": ""} | found


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[Field]:
    """The fields of the message in data[position:end]. Raises ValueError for what is not protobuf."""
    while position < end:
        tag, position = _varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError("it is not protobuf")
        if wire == _BYTES:
            length, position = _varint(data, position, end)
            if length > end - position:
                raise ValueError("it is cut off, or not protobuf")
            yield number, wire, position, position + length
            position += length
        elif wire == _VARINT:
            value, position = _varint(data, position, end)
            yield number, wire, value, value
        elif wire in _FIXED and _FIXED[wire] <= end - position:
            position += _FIXED[wire]
            yield number, wire, position, position
        else:
            raise ValueError("it is cut off, or not protobuf")


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """A number of at most ten bytes, and the position after it."""
    if position < end and data[position] < 0x80:  # most are one byte
        return data[position], position + 1
    value = shift = 0
    for place in range(position, min(end, position + 10)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ValueError("it is cut off, or not protobuf")
