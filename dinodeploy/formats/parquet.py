"""One Parquet table a shard: shard_00000.parquet, for data frames and query engines.

    id              string
    width, height   int32, of the original picture
    <output>        fixed_size_list<float32>, each row flattened; the field's metadata holds its shape as JSON
    <output>        list<float32> where the grids of a shard differ; then besides
    <output>_grid   fixed_size_list<int32>[2], (h, w) of each row

A file name that is not valid Unicode is written with backslash escapes: Parquet holds UTF-8 alone.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.errors import UnavailableError
from dinodeploy.formats import Column, Int, Shard

_SHAPE = b"shape"  # key of a field's metadata: the shape of a row, or [null, null, D]


def require() -> None:
    """Raise UnavailableError without pyarrow."""
    if not importlib.util.find_spec("pyarrow"):
        raise UnavailableError("parquet needs pyarrow, which is missing; pip install 'dinodeploy[parquet]'")


def write(root: Path, index: int, shard: Shard) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet

    fields = [pa.field("id", pa.string()), pa.field("width", pa.int32()), pa.field("height", pa.int32())]
    arrays = [pa.array(_utf8(shard.ids)), pa.array(shard.sizes[:, 0]), pa.array(shard.sizes[:, 1])]
    for output, column in shard.columns.items():
        array, shape = _to_arrow(column)
        fields.append(pa.field(output, array.type, metadata={_SHAPE: json.dumps(shape)}))
        arrays.append(array)
        if column.grid is not None:
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(column.grid.reshape(-1)), 2))
            fields.append(pa.field(f"{output}_grid", arrays[-1].type))
    (name,) = files(index, "")
    pyarrow.parquet.write_table(pa.table(arrays, schema=pa.schema(fields)), root / name)
    return [name]


def files(index: int, output: str) -> list[str]:
    return [f"shard_{index:05d}.parquet"]


def read(root: Path, index: int, output: str) -> tuple[list[str], Column]:
    import pyarrow.parquet

    (name,) = files(index, output)
    names = pyarrow.parquet.read_schema(root / name).names
    wanted = [column for column in ("id", output, f"{output}_grid") if column in names]
    table = pyarrow.parquet.read_table(root / name, columns=wanted)
    shape = json.loads((table.schema.field(output).metadata or {})[_SHAPE])
    values = _to_numpy(table[output])
    if f"{output}_grid" in names:
        column = Column(values.reshape(-1, shape[-1]), _to_numpy(table[f"{output}_grid"]).reshape(-1, 2))
    else:
        column = Column(values.reshape(-1, *shape))
    return table["id"].to_pylist(), column


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """A small table of metadata, one record a row."""
    import pyarrow as pa
    import pyarrow.parquet

    columns = {key: [record[key] for record in records] for key in records[0]}
    columns["image_path"] = _utf8(columns["image_path"])
    pyarrow.parquet.write_table(pa.table(columns), path)


def _utf8(names: list[str]) -> list[str]:
    return [name.encode("utf-8", "backslashreplace").decode() for name in names]


def _to_arrow(column: Column) -> tuple[Any, list[int | None]]:
    """The Arrow array of an output, and the shape of its rows with None for what differs."""
    import pyarrow as pa

    flat = pa.array(column.values.reshape(-1))
    if column.grid is None:
        shape = column.values.shape[1:]
        return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape))), list(shape)
    dim = column.values.shape[1]
    return pa.ListArray.from_arrays(pa.array(_offsets(column.grid, dim)), flat), [None, None, dim]


def _offsets(grid: Int, dim: int) -> Int:
    """Where each row begins in the flat array, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(grid.prod(axis=1)) * dim]).astype(np.int32)


def _to_numpy(column: Any) -> Any:
    """All numbers of a list column, end to end."""
    values: Any = column.combine_chunks().flatten()
    return values.to_numpy()
