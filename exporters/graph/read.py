"""Read an ONNX file without its weights: what they are called and where their bytes lie is enough.

The counterpart of `write_onnx.py`. The protobuf library reads a file whole, so looking at the graph of a
ViT-L would cost its 1.2 GB of weights; here the file is walked field by field and large data is stepped
over. Format: https://protobuf.dev/programming-guides/encoding; a message may be merged from its fields
one by one, which is all that this needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from dinodeploy.bundle.manifest import PLAIN_NAME
from dinodeploy.errors import BundleError, reason_of
from exporters.graph.write import GRAPH_FIELD, INITIALIZER_FIELD, LENGTH_DELIMITED, RAW_DATA_FIELD

SMALL_BYTES = 4096  # data up to here is read with the graph
_FIXED_SIZES = {1: 8, 5: 4}  # wire types of a fixed length
_VARINT = 0


@dataclass(frozen=True)
class Blob:
    """Where the bytes of one weight lie, and what they are."""

    path: Path
    offset: int
    length: int
    shape: tuple[int, ...]
    data_type: int  # onnx.TensorProto.DataType

    def read(self) -> NDArray[Any]:
        """The weight, in memory of its own. Raises BundleError when the file has no such bytes."""
        try:
            flat = np.fromfile(self.path, np.uint8, self.length, offset=self.offset)
            if flat.size == self.length:
                return flat.view(helper.tensor_dtype_to_np_dtype(self.data_type)).reshape(self.shape)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise BundleError(f"{self.path}: a weight cannot be read: {reason_of(error)}") from error
        raise BundleError(f"{self.path} ends inside a weight; copy or export the bundle again")


@dataclass(frozen=True)
class _Field:
    number: int
    start: int  # of the tag
    payload: int
    end: int


def read_skeleton(path: Path) -> tuple[ModelProto, dict[str, Blob]]:
    """The model with every large weight left out, and where these are by name.

    What is left out is marked as external data, with a place that nothing is to be read from. Raises
    BundleError for what is no ONNX file.
    """
    model = ModelProto()
    blobs: dict[str, Blob] = {}
    try:
        with path.open("rb") as file:
            for field in _fields(file, 0, path.stat().st_size):
                if field.number != GRAPH_FIELD:
                    model.MergeFromString(_bytes(file, field))
                    continue
                for part in _fields(file, field.payload, field.end):
                    if part.number == INITIALIZER_FIELD:
                        _add_initializer(model, blobs, file, part, path)
                    else:
                        model.graph.MergeFromString(_bytes(file, part))
    except (DecodeError, EOFError) as error:
        raise BundleError(f"{path} is no ONNX file: {error}") from error
    return model, blobs


def _add_initializer(
    model: ModelProto, blobs: dict[str, Blob], file: BinaryIO, field: _Field, path: Path
) -> None:
    tensor = model.graph.initializer.add()
    data: _Field | None = None
    for part in _fields(file, field.payload, field.end):
        if part.number == RAW_DATA_FIELD and part.end - part.payload > SMALL_BYTES:
            data = part
        else:
            tensor.MergeFromString(_bytes(file, part))
    place: Mapping[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    if data is not None:
        where = (path, data.payload, data.end - data.payload)
    elif tensor.data_location == TensorProto.EXTERNAL:
        where = _external(place, tensor.name, path)
    else:
        return
    blobs[tensor.name] = Blob(*where, tuple(tensor.dims), tensor.data_type)
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value="left-out")


def _external(place: Mapping[str, str], name: str, path: Path) -> tuple[Path, int, int]:
    """File, offset and length of a weight beside the graph; never another place than the graph's folder.

    Raises BundleError.
    """
    try:
        location, offset, length = place["location"], int(place.get("offset", 0)), int(place["length"])
    except (KeyError, ValueError) as error:
        raise BundleError(
            f"{path}: weight {name!r} does not say where it lies: {reason_of(error)}"
        ) from error
    if not PLAIN_NAME.fullmatch(location) or offset < 0 or length < 0:
        raise BundleError(
            f"{path}: weight {name!r} lies at {location!r}, byte {offset}; wanted a file beside the graph"
        )
    return path.parent / location, offset, length


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[_Field]:
    """The fields of the message that lies between two offsets."""
    while start < end:
        file.seek(start)
        tag = _read_varint(file)
        number, wire = tag >> 3, tag & 7
        if wire == LENGTH_DELIMITED:
            length = _read_varint(file)
            payload = file.tell()
        elif wire == _VARINT:
            payload = file.tell()
            _read_varint(file)
            length = file.tell() - payload
        elif wire in _FIXED_SIZES:
            payload, length = file.tell(), _FIXED_SIZES[wire]
        else:
            raise DecodeError(f"field {number} at byte {start} has wire type {wire}")
        if payload + length > end:
            raise EOFError(f"field {number} at byte {start} does not end where its message does")
        yield _Field(number, start, payload, payload + length)
        start = payload + length


def _bytes(file: BinaryIO, field: _Field) -> bytes:
    """A field with its tag: a message of its own, to be merged."""
    file.seek(field.start)
    return file.read(field.end - field.start)


def _read_varint(file: BinaryIO) -> int:
    """Seven bits a byte, low bits first."""
    number = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise EOFError("a number has no end")
        number |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return number
