"""Read and write safetensors files as numpy arrays (https://github.com/huggingface/safetensors).

A file may come from anywhere: whatever is wrong with it is a BundleError in one line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dinodeploy.arrays import AnyArray
from dinodeploy.errors import BundleError, MisuseError, reason_of
from dinodeploy.files.atomic import atomic_path

DTYPES = ("bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")
_RESERVED = "__metadata__"


def save_tensors(
    path: Path, tensors: Mapping[str, AnyArray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` to `path` atomically.

    The same tensors give the same bytes; so does `metadata` of one key (the package does not sort keys).
    Raises MisuseError for a dtype outside DTYPES or a reserved name.
    """
    arrays = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor, order="C")  # the package writes memory as it is, whatever its strides
        if name == _RESERVED:
            raise MisuseError(f"tensor {name!r}: the format reserves this name; choose another")
        if array.dtype.name not in DTYPES:
            raise MisuseError(f"tensor {name!r}: got dtype {array.dtype}, wanted one of {', '.join(DTYPES)}")
        arrays[name] = array
    with atomic_path(path) as partial:
        mode = partial.stat().st_mode
        try:
            save_file(arrays, partial, dict(metadata) if metadata else None)
        except SafetensorError as error:  # it hides the system's error: "... (os error 28)"
            number = re.search(r"(?:os error|Os \{ code:) (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1])), path) if number else error from error
        with suppress(PermissionError):  # FAT and some shares keep no modes
            partial.chmod(mode)  # the package makes a new file that only its owner may read


def load_tensors(path: Path) -> dict[str, AnyArray]:
    """All tensors of a file, each in its own memory. Raises BundleError, also for a dtype outside DTYPES."""
    tensors = {}
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118  it is not a mapping
            array = file.get_tensor(name)
            if array.dtype.name not in DTYPES:
                raise BundleError(f"{path}: tensor {name!r}: dtype {array.dtype}; wanted {', '.join(DTYPES)}")
            if array.dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:
                raise BundleError(f"{path}: tensor {name!r}: a BOOL is neither 0 nor 1")
            tensors[name] = array
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file; reads its header only. Raises BundleError."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        if not path.is_file():  # opening a FIFO would block
            raise BundleError(f"{path}: not a file; wanted a safetensors file")
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is not a safetensors file that can be read: {reason_of(error)}") from error
