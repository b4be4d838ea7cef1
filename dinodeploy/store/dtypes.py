"""On-disk dtypes of an output: float32, float16, or int8 with one scale per vector. Stores are read as
float32.

    float32   unchanged
    float16   rounded: half the space, relative error at most 2^-11 (2^-25 absolute below 6e-5)
    int8      a quarter of the space; a vector (the last axis) x is stored as round(x / s) with s = max|x| /
              127 in a column `<output>_scale`; an element is off by at most s / 2

For vectors of 384 normal numbers, the cosine with the original is at least 1 - 5.7e-5 with int8 (mean
1 - 2.6e-5) and 1 - 2.9e-8 with float16 (tests/dinodeploy/store/test_dtypes.py).

Shapes: n rows, P patches, D dimension.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dinodeploy.errors import MisuseError
from dinodeploy.store.formats import Column

Dtype = Literal["float32", "float16", "int8"]
DTYPES: dict[str, Dtype] = {
    **{name: name for name in get_args(Dtype)},
    "fp32": "float32",
    "fp16": "float16",
}
SCALE = "_scale"  # suffix of the column that holds an output's scales

_LARGEST_FP16 = 65_504.0
_LEVELS = 127
_BLOCK = 1 << 20  # numbers that are scaled to length 1 together


def parse_dtype(name: str) -> Dtype:
    """`fp32`, `fp16`, `int8`, or numpy's names. Raises MisuseError."""
    if name not in DTYPES:
        raise MisuseError(f"dtype {name!r} is unknown; use one of fp32, fp16, int8")
    return DTYPES[name]


def pack(output: str, column: Column, dtype: Dtype) -> dict[str, Column]:
    """A float32 column -> the columns to write. Raises MisuseError for values that float16 cannot hold."""
    if dtype == "int8":
        values, scale = _to_int8(column.values)
        return {output: Column(values, column.grid), output + SCALE: Column(scale, column.grid)}
    if dtype == "float16":
        largest = float(np.abs(column.values).max(initial=0))
        if largest > _LARGEST_FP16:
            raise MisuseError(
                f"output {output!r} reaches {largest:,.0f}, float16 ends at {_LARGEST_FP16:,.0f}; "
                "start again with --normalize, or with --dtype fp32 or int8, and --overwrite"
            )
        return {output: Column(column.values.astype(np.float16), column.grid)}
    return {output: column}


def unpack(column: Column, scale: Column | None = None) -> Column:
    """The inverse of `pack`, up to rounding: float32."""
    values = column.values.astype(np.float32, copy=False)
    return Column(values if scale is None else values * scale.values, column.grid)


def unit_length(values: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """[..., D] -> each vector scaled to length 1, and which ones have a direction [...].

    Lengths are computed in float64, so tiny and huge vectors keep their direction. A vector of zeros, or one
    that is not finite, has none: it is left as it is.
    """
    dim = values.shape[-1]
    flat = values.reshape(-1, dim)
    out = np.empty(flat.shape, np.float32)
    good = np.empty(len(flat), np.bool_)
    rows = max(1, _BLOCK // max(dim, 1))
    for begin in range(0, len(flat), rows):
        wide = flat[begin : begin + rows].astype(np.float64)
        lengths = np.sqrt((wide * wide).sum(axis=1))
        has_direction = np.isfinite(lengths) & (lengths > 0)
        good[begin : begin + rows] = has_direction
        out[begin : begin + rows] = wide / np.where(has_direction, lengths, 1.0)[:, None]
    return out.reshape(values.shape), good.reshape(values.shape[:-1])


def stored_parts(output: str, dtype: Dtype) -> tuple[str, ...]:
    """Names of the columns that `pack` writes for an output."""
    return (output, output + SCALE) if dtype == "int8" else (output,)


def _to_int8(values: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """[..., D] -> int8 [..., D] and scales, float32 [..., 1]; 0 for a vector of zeros."""
    scale = np.abs(values).max(axis=-1, keepdims=True, initial=0) / np.float32(_LEVELS)
    safe = np.where(scale > 0, scale, np.float32(1))
    return np.clip(np.rint(values / safe), -_LEVELS, _LEVELS).astype(np.int8), scale.astype(np.float32)
