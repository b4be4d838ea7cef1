"""One Lance file per shard, shard_00000.lance: a column format for vectors. Columns: `arrow.py`.

These are plain files of format 2, without the versions and random names of a Lance data set, so the same rows
give the same bytes. `lance.file.LanceFileReader` reads them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from dinodeploy.arrays import IntArray
from dinodeploy.errors import UnavailableError
from dinodeploy.store.formats import Column, Shard
from dinodeploy.store.formats.arrow import from_table, needed, sizes_from_table, to_table

VERSION = "2.0"  # of the file format; only newer packages write newer ones


def require() -> None:
    """Raise UnavailableError without Lance."""
    if not importlib.util.find_spec("lance"):
        raise UnavailableError("lance needs pylance, which is missing; pip install 'dinodeploy[search]'")


def prepare() -> None:
    import lance.file  # noqa: F401


def write(root: Path, index: int, shard: Shard) -> list[str]:
    from lance.file import LanceFileWriter

    (name,) = files(index, "")
    table = to_table(shard)
    with LanceFileWriter(str(root / name), table.schema, version=VERSION) as writer:
        writer.write_batch(table)
    return [name]


def files(index: int, output: str) -> list[str]:
    return [f"shard_{index:05d}.lance"]


def read(root: Path, index: int, output: str) -> tuple[list[str], Column]:
    from lance.file import LanceFileReader

    (name,) = files(index, output)
    names = LanceFileReader(str(root / name)).metadata().schema.names
    reader = LanceFileReader(str(root / name), columns=needed(names, output))
    return from_table(reader.read_all().to_table(), output)


def sizes(root: Path, index: int) -> IntArray:
    from lance.file import LanceFileReader

    (name,) = files(index, "")
    reader = LanceFileReader(str(root / name), columns=["width", "height"])
    return sizes_from_table(reader.read_all().to_table())
