"""One table per shard: shard_00000.parquet, for data frames and query engines, or shard_00000.lance.

    id              string
    width, height   int32, of the original image
    <output>        fixed_size_list, each row flattened; the field's metadata holds its shape as JSON;
                    list if the grids of a shard differ, together with
    <output>_grid   fixed_size_list<int32>[2], (h, w) of each row

The Lance files are plain files of format 2, without the versions and random names of a Lance data set, so the
same rows give the same bytes. `lance.file.LanceFileReader` reads them.

A file name that is not valid Unicode is written with backslash escapes, because Arrow strings are UTF-8.

Shapes: n rows of a shard, P patches of all its rows, h, w patch grid, D dimension.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import IntArray
from dinodeploy.errors import UnavailableError
from dinodeploy.files.json_file import parse_json
from dinodeploy.store.formats import Column, Format, Shard

if TYPE_CHECKING:
    from pyarrow import Array, Table

_SHAPE = b"shape"  # key of a field's metadata: the shape of a row, or [null, null, D]
LANCE_VERSION = "2.0"  # of the file format; only newer packages write newer ones


class Parquet(Format):
    suffix = "parquet"

    def require(self) -> None:
        if not importlib.util.find_spec("pyarrow"):
            raise UnavailableError(
                "parquet needs pyarrow, which is missing; pip install 'dinodeploy[parquet]'"
            )

    def prepare(self) -> None:
        import pyarrow.parquet  # noqa: F401

    def write(self, root: Path, index: int, shard: Shard) -> list[str]:
        import pyarrow.parquet

        pyarrow.parquet.write_table(to_table(shard), root / self.file(index))
        return [self.file(index)]

    def read(self, root: Path, index: int, output: str) -> tuple[list[str], Column]:
        import pyarrow.parquet

        names = pyarrow.parquet.read_schema(root / self.file(index)).names
        columns = needed(names, output)
        return from_table(pyarrow.parquet.read_table(root / self.file(index), columns=columns), output)

    def sizes(self, root: Path, index: int) -> IntArray:
        import pyarrow.parquet

        columns = ["width", "height"]
        return sizes_from_table(pyarrow.parquet.read_table(root / self.file(index), columns=columns))


class Lance(Format):
    suffix = "lance"

    def require(self) -> None:
        if not importlib.util.find_spec("lance"):
            raise UnavailableError("lance needs pylance, which is missing; pip install 'dinodeploy[search]'")

    def prepare(self) -> None:
        import lance.file  # noqa: F401

    def write(self, root: Path, index: int, shard: Shard) -> list[str]:
        from lance.file import LanceFileWriter

        table = to_table(shard)
        path = str(root / self.file(index))
        with LanceFileWriter(path, table.schema, version=LANCE_VERSION) as writer:
            writer.write_batch(table)
        return [self.file(index)]

    def read(self, root: Path, index: int, output: str) -> tuple[list[str], Column]:
        from lance.file import LanceFileReader

        names = LanceFileReader(str(root / self.file(index))).metadata().schema.names
        reader = LanceFileReader(str(root / self.file(index)), columns=needed(names, output))
        return from_table(reader.read_all().to_table(), output)

    def sizes(self, root: Path, index: int) -> IntArray:
        from lance.file import LanceFileReader

        reader = LanceFileReader(str(root / self.file(index)), columns=["width", "height"])
        return sizes_from_table(reader.read_all().to_table())


def to_table(shard: Shard) -> Table:
    """The table of a shard."""
    import pyarrow as pa

    fields = [pa.field("id", pa.string()), pa.field("width", pa.int32()), pa.field("height", pa.int32())]
    arrays = [strings(shard.ids), numbers(shard.sizes[:, 0]), numbers(shard.sizes[:, 1])]
    for output, column in shard.columns.items():
        array, shape = _to_arrow(column)
        fields.append(pa.field(output, array.type, metadata={_SHAPE: json.dumps(shape)}))
        arrays.append(array)
        if column.grid is not None:
            arrays.append(pa.FixedSizeListArray.from_arrays(numbers(column.grid.reshape(-1)), 2))
            fields.append(pa.field(f"{output}_grid", arrays[-1].type))
    return pa.table(arrays, schema=pa.schema(fields))


def write_metadata(path: Path, shard: Shard) -> None:
    """A small table beside another format: path and size of each row's image."""
    import pyarrow as pa
    import pyarrow.parquet

    width, height = (numbers(side) for side in shard.sizes.T.astype(np.int64))
    table = pa.Table.from_arrays([strings(shard.ids), width, height], ["image_path", "width", "height"])
    pyarrow.parquet.write_table(table, path)


def needed(names: Sequence[str], output: str) -> list[str]:
    """The columns of a table that `from_table` reads for one output."""
    return [name for name in ("id", output, f"{output}_grid") if name in names]


def from_table(table: Table, output: str) -> tuple[list[str], Column]:
    """The ids and one output of a table: the inverse of `to_table`."""
    shape = parse_json((table.schema.field(output).metadata or {})[_SHAPE], f"shape of {output!r}", "small")
    values = _to_numpy(table[output])
    if f"{output}_grid" in table.schema.names:
        column = Column(values.reshape(-1, shape[-1]), _to_numpy(table[f"{output}_grid"]).reshape(-1, 2))
    else:
        column = Column(values.reshape(-1, *shape))
    return table["id"].to_pylist(), column


def sizes_from_table(table: Table) -> IntArray:
    """[n, 2], width and height of the original images."""
    columns = [table[name].to_numpy() for name in ("width", "height")]
    return np.stack(columns, axis=1).astype(np.int32)


def utf8(names: Sequence[str]) -> list[str]:
    """Names as valid UTF-8, with backslash escapes."""
    return [name.encode("utf-8", "backslashreplace").decode() for name in names]


def strings(names: Sequence[str]) -> Array:
    """A column of names, made from buffers because `pyarrow.array` imports pandas (half a second)."""
    import pyarrow as pa

    rows = [name.encode() for name in utf8(names)]
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    assert ends[-1] < 2**31, "Arrow strings end at 2 GiB per column; the names of a shard are far below"
    return pa.StringArray.from_buffers(
        len(rows), pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(rows))
    )


def numbers(values: NDArray[Any]) -> Array:
    """A column of numbers [n]."""
    import pyarrow as pa

    flat = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)])


def _to_arrow(column: Column) -> tuple[Any, list[int | None]]:
    """The Arrow array of an output, and the shape of its rows with None for sides that differ."""
    import pyarrow as pa

    flat = numbers(column.values.reshape(-1))
    if column.grid is None:
        shape = column.values.shape[1:]
        return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape))), list(shape)
    dim = column.values.shape[1]
    return pa.ListArray.from_arrays(numbers(_offsets(column.grid, dim)), flat), [None, None, dim]


def _offsets(grid: IntArray, dim: int) -> IntArray:
    """Start of each row in the flat array, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(grid.prod(axis=1)) * dim]).astype(np.int32)


def _to_numpy(column: Any) -> Any:
    """All numbers of a list column in one array."""
    values: Any = column.combine_chunks().flatten()
    return values.to_numpy()
