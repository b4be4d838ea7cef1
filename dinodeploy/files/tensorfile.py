"""The safetensors format, read and written with numpy alone.

A bundle's golden.safetensors must be readable on devices that have numpy and nothing else, and the
format is small, so the runtime reads it itself; the exporters use the `safetensors` package, and a test
proves that both write the same bytes and read each other's files.

    bytes 0..8     N, the length of the header, unsigned little-endian
    next N bytes   JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
                   "__metadata__": {"key": "value", ...}}, padded with spaces to a multiple of 8
    the rest       tensors, row-major little-endian; the offsets count from here and leave no hole

Source: the format's own description, https://github.com/huggingface/safetensors#format.
A file is foreign input: whatever is wrong with it is a BundleError, found before memory is taken.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dinodeploy.arrays import AnyArray
from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files.atomic import atomic_file
from dinodeploy.files.schema import decode

# The format's word for each type, in the order tensors are written in (widest first, so that all stay
# aligned). numpy has no bfloat16: its bits are read as u2 and widened.
DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("bool"),
}
_WORDS = {dtype: word for word, dtype in DTYPES.items() if word != "BF16"}
_RANK = {word: rank for rank, word in enumerate(DTYPES)}

_METADATA = "__metadata__"
_MAX_HEADER = 100_000_000  # bytes; the reference implementation's limit
_MAX_DIMS = 32  # what every numpy holds


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file; `begin` and `end` count bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def save_tensors(
    path: Path, tensors: Mapping[str, AnyArray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` to `path`, whole or not at all; the same tensors always give the same bytes.

    Raises MisuseError for a type that the format or this module does not know.
    """
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    arrays = {name: _little_endian(name, tensor) for name, tensor in tensors.items()}
    offset = 0
    ordered = sorted(arrays, key=lambda name: (_RANK[_WORDS[arrays[name].dtype]], name))
    for name in ordered:
        array = arrays[name]
        end = offset + array.nbytes
        word = _WORDS[array.dtype]
        header[name] = {"dtype": word, "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in ordered:
            file.write(arrays[name].tobytes())


def load_tensors(path: Path) -> dict[str, AnyArray]:
    """All tensors of a file, in the file's order, each in memory of its own; BF16 becomes float32.

    Raises BundleError, one line, naming the file and the tensor.
    """
    with _open(path) as file:
        tensors, _, start = _parse_header(file, path)
        return {name: _read_tensor(file, path, name, info, start) for name, info in tensors.items()}


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Names, types, shapes and places of all tensors, and the metadata. Raises BundleError."""
    with _open(path) as file:
        tensors, metadata, _ = _parse_header(file, path)
        return tensors, metadata


def _little_endian(name: str, tensor: AnyArray) -> AnyArray:
    array = np.asarray(tensor, order="C")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if name == _METADATA:
        raise MisuseError(f"tensor {name!r}: the format keeps this name for itself; choose another")
    if array.dtype not in _WORDS:
        known = ", ".join(str(dtype) for dtype in _WORDS)
        raise MisuseError(f"tensor {name!r}: got dtype {array.dtype}, wanted one of {known}")
    return array


def _open(path: Path) -> BinaryIO:
    try:
        if not path.is_file():  # a FIFO would block forever
            raise BundleError(f"{path}: not a file, wanted a safetensors file")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be opened: {error}") from error


def _parse_header(file: BinaryIO, path: Path) -> tuple[dict[str, TensorInfo], dict[str, str], int]:
    """Tensors in the order of their bytes, metadata, and where the bytes start."""
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > min(size - 8, _MAX_HEADER):
        raise BundleError(f"{path}: got {size} bytes with a header of {length}, wanted a safetensors file")
    header = decode(file.read(length), f"{path}: header")
    if not isinstance(header, dict):
        raise BundleError(f"{path}: header: got {type(header).__name__}, wanted an object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BundleError(f"{path}: header: {_METADATA} wanted an object of strings")
    tensors = {name: _parse_info(entry, f"{path}: tensor {name!r}") for name, entry in header.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    _check_cover(tensors, size - 8 - length, path)
    return tensors, metadata, 8 + length


def _parse_info(entry: Any, where: str) -> TensorInfo:
    """One header entry, checked in itself."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BundleError(f"{where}: wanted exactly dtype, shape and data_offsets")
    word, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(word, str) or word not in DTYPES:
        raise BundleError(f"{where}: got dtype {word!r}, wanted one of {', '.join(DTYPES)}")
    if not _are_counts(shape) or len(shape) > _MAX_DIMS:
        raise BundleError(f"{where}: shape wanted at most {_MAX_DIMS} non-negative integers")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise BundleError(f"{where}: data_offsets wanted two non-negative integers")
    begin, end = offsets
    if math.prod(shape) * DTYPES[word].itemsize != end - begin:
        raise BundleError(f"{where}: {word} {shape} does not fill bytes {begin} to {end}")
    return TensorInfo(word, tuple(shape), begin, end)


def _are_counts(values: Any) -> bool:
    """Whether this is a list of non-negative integers that numpy can index with; True is not one."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**62 for value in values)


def _check_cover(tensors: dict[str, TensorInfo], size: int, path: Path) -> None:
    """The tensors, in order, fill the buffer from the first byte to the last, once."""
    offset = 0
    for name, info in tensors.items():
        if info.begin != offset:
            problem = "overlaps the one before" if info.begin < offset else "leaves a hole before it"
            raise BundleError(f"{path}: tensor {name!r}: at byte {info.begin} it {problem}, wanted {offset}")
        offset = info.end
    if offset != size:
        raise BundleError(f"{path}: got {size} bytes of tensors, wanted {offset} as the header says")


def _read_tensor(file: BinaryIO, path: Path, name: str, info: TensorInfo, start: int) -> AnyArray:
    dtype = DTYPES[info.dtype]
    count = math.prod(info.shape)
    try:
        file.seek(start + info.begin)
        flat = np.fromfile(file, np.dtype("u1") if info.dtype == "BOOL" else dtype, count)
        if flat.size < count:  # the file shrank while we read it
            raise BundleError(f"{path}: tensor {name!r}: the file ends inside it")
        if info.dtype == "BOOL":
            if flat.size and flat.max() > 1:
                raise BundleError(f"{path}: tensor {name!r}: got byte {flat.max()} for a BOOL, wanted 0 or 1")
            flat = flat.view(np.bool_)
        elif info.dtype == "BF16":  # a bfloat16 is the upper half of a float32
            flat = (flat.astype("<u4") << 16).view("<f4")
        return flat.reshape(info.shape)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: tensor {name!r}: cannot be read: {error}") from error
