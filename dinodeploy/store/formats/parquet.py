"""One Parquet table per shard, shard_00000.parquet, for data frames and query engines. Columns:
`arrow.py`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from dinodeploy.arrays import IntArray
from dinodeploy.errors import UnavailableError
from dinodeploy.store.formats import Column, Shard
from dinodeploy.store.formats.arrow import from_table, needed, numbers, sizes_from_table, strings, to_table


def require() -> None:
    """Raise UnavailableError without pyarrow."""
    if not importlib.util.find_spec("pyarrow"):
        raise UnavailableError("parquet needs pyarrow, which is missing; pip install 'dinodeploy[parquet]'")


def prepare() -> None:
    import pyarrow.parquet  # noqa: F401


def write(root: Path, index: int, shard: Shard) -> list[str]:
    import pyarrow.parquet

    (name,) = files(index, "")
    pyarrow.parquet.write_table(to_table(shard), root / name)
    return [name]


def files(index: int, output: str) -> list[str]:
    return [f"shard_{index:05d}.parquet"]


def read(root: Path, index: int, output: str) -> tuple[list[str], Column]:
    import pyarrow.parquet

    (name,) = files(index, output)
    names = pyarrow.parquet.read_schema(root / name).names
    return from_table(pyarrow.parquet.read_table(root / name, columns=needed(names, output)), output)


def sizes(root: Path, index: int) -> IntArray:
    import pyarrow.parquet

    (name,) = files(index, "")
    return sizes_from_table(pyarrow.parquet.read_table(root / name, columns=["width", "height"]))


def write_metadata(path: Path, shard: Shard) -> None:
    """A small table beside another format: path and size of each row's image."""
    import pyarrow as pa
    import pyarrow.parquet

    width, height = (numbers(side) for side in shard.sizes.T.astype(np.int64))
    table = pa.Table.from_arrays([strings(shard.ids), width, height], ["image_path", "width", "height"])
    pyarrow.parquet.write_table(table, path)
