"""Metadata columns from the user's own table, joined to images by id.

The table is CSV or Parquet with a column `id` and any others: numbers, texts and booleans. Dates become text
that sorts chronologically; NaN and infinity become missing values. Columns of other kinds are left out and
reported.

Shapes: n images of a shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinodeploy.errors import MisuseError
from dinodeploy.search.filters import Kind
from dinodeploy.search.index_manifest import MetadataFacts

if TYPE_CHECKING:
    from pyarrow import Array, ChunkedArray, DataType, Table

ID = "id"
OURS = (ID, "vector", "width", "height")  # columns of every index


@dataclass
class Metadata:
    """A table in memory, and which rows have matched an image. left_out: columns of unsupported kinds."""

    path: Path
    table: Table  # `id`, then the columns
    kinds: dict[str, Kind]
    left_out: tuple[str, ...]
    _matched: set[int] = field(default_factory=set)
    _first: str = ""  # an id of the store, for messages

    def join(self, ids: Sequence[str]) -> dict[str, Array]:
        """The columns for the images `ids` [n], null if the table has no row."""
        import pyarrow as pa
        import pyarrow.compute as pc

        self._first = self._first or ids[0]
        rows = pc.index_in(pa.array(ids, pa.string()), value_set=self.table[ID])
        self._matched.update(rows.drop_null().to_pylist())
        return {name: self.table[name].take(rows).combine_chunks() for name in self.kinds}

    def facts(self) -> MetadataFacts:
        """The facts for the manifest."""
        matched = len(self._matched)
        return MetadataFacts(str(self.path), matched, len(self.table) - matched, self.left_out)

    def require_match(self) -> None:
        """Raise MisuseError if no row has matched an image, which means that ids are spelled differently."""
        if len(self.table) and not self._matched:
            theirs = self.table[ID][0].as_py()
            raise MisuseError(
                f"--metadata {self.path}: no id is in the store; got for example {theirs!r}, wanted for "
                f"example {self._first!r}; write ids as the store does"
            )


def read_metadata(path: Path) -> Metadata:
    """Read the table at `path`, by its suffix. Raises MisuseError if it cannot be joined."""
    import pyarrow as pa

    table = _read(path)
    _check_names(path, table.schema.names)
    kinds: dict[str, Kind] = {}
    columns = {ID: _ids(path, table[ID])}
    for name in table.schema.names:
        if name != ID and (found := _plain(table[name])) is not None:
            kinds[name], columns[name] = found
    left_out = tuple(name for name in table.schema.names if name not in columns)
    return Metadata(path, pa.table(columns), kinds, left_out)


def _read(path: Path) -> Table:
    from pyarrow.parquet import read_table

    readers = {".csv": _read_csv, ".parquet": read_table}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise MisuseError(f"--metadata {path}: got {path.suffix or 'no suffix'}, wanted .csv or .parquet")
    if not path.is_file():
        raise MisuseError(f"--metadata {path}: no such file")
    try:
        return reader(path)
    except (ValueError, OSError, KeyError) as error:  # ArrowInvalid is a ValueError
        reason = " ".join(str(error).split())[:200]
        raise MisuseError(f"--metadata {path}: cannot be read: {reason}") from error


def _read_csv(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow.csv import ConvertOptions, ParseOptions, read_csv

    return read_csv(
        path,
        parse_options=ParseOptions(newlines_in_values=True),
        convert_options=ConvertOptions(column_types={ID: pa.string()}, strings_can_be_null=False),
    )


def _check_names(path: Path, names: list[str]) -> None:
    if ID not in names:
        raise MisuseError(f"--metadata {path}: got columns {', '.join(names)}; wanted a column {ID!r}")
    for name in names:
        if names.count(name) > 1:
            raise MisuseError(f"--metadata {path}: column {name!r} appears twice; rename one")
        if name != ID and (name in OURS or not name.strip() or name.startswith("_")):
            raise MisuseError(
                f"--metadata {path}: the column name {name!r} is reserved (as are {', '.join(OURS)} and "
                "names with a leading underscore); rename it"
            )
        if "." in name or "`" in name:
            raise MisuseError(f"--metadata {path}: column {name!r} contains a dot or a backtick; rename it")


def _ids(path: Path, column: ChunkedArray) -> ChunkedArray:
    import pyarrow as pa

    try:
        ids = column.cast(pa.string())
    except (ValueError, NotImplementedError) as error:
        raise MisuseError(f"--metadata {path}: ids are of type {column.type}, wanted text") from error
    if ids.null_count:
        raise MisuseError(f"--metadata {path}: {ids.null_count} rows have no id; remove them")
    counts = ids.value_counts()
    if len(counts) < len(ids):
        first = next(entry["values"] for entry in counts.to_pylist() if entry["counts"] > 1)
        raise MisuseError(f"--metadata {path}: id {first!r} appears more than once; wanted unique ids")
    return ids


def _plain(column: ChunkedArray) -> tuple[Kind, ChunkedArray] | None:
    """The kind of a column and its values cast to that kind; None for lists, structures and bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    of: DataType = column.type
    if types.is_dictionary(of):
        return _plain(column.cast(of.value_type))
    texts = (types.is_string, types.is_large_string, types.is_temporal, types.is_null)
    targets: list[tuple[Any, Kind, DataType]] = [
        (types.is_boolean, "boolean", pa.bool_()),
        (types.is_uint64, "real", pa.float64()),  # its upper half does not fit int64
        (types.is_integer, "integer", pa.int64()),
        (types.is_floating, "real", pa.float64()),
        (types.is_decimal, "real", pa.float64()),
        *((test, "text", pa.string()) for test in texts),
    ]
    for is_such, kind, target in targets:
        if is_such(of):
            cast = column.cast(target, safe=False)
            if kind == "real":  # NaN and infinity are missing values for filters and JSON
                cast = pc.if_else(pc.is_finite(cast), cast, pa.scalar(None, target))
            return kind, cast
    return None
