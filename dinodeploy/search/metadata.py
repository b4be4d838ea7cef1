"""Metadata columns from the user's own table, joined to images by id.

The table is CSV, TSV, JSON lines or Parquet with a column `id` and any others: numbers, texts and booleans
(`column_types.py`). Columns of other kinds are left out and reported.

Shapes: n images of a shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dinodeploy.errors import BundleError, MisuseError, reason_of
from dinodeploy.files.delimited import read_delimited
from dinodeploy.files.json_file import parse_json
from dinodeploy.files.regular import open_regular
from dinodeploy.files.text import open_text
from dinodeploy.search.column_types import TypedColumn, from_arrow, from_json, from_text
from dinodeploy.search.filters import Kind
from dinodeploy.search.index_manifest import MetadataFacts
from dinodeploy.store.formats.arrow import utf8

if TYPE_CHECKING:
    from pyarrow import Array, ChunkedArray, Table

ID = "id"
OURS = (ID, "vector", "width", "height")  # columns of every index
_BLOCK = 65_536  # rows of CSV that are converted together


@dataclass
class Metadata:
    """A table in memory, and which rows have matched an image. left_out: columns of unsupported kinds."""

    path: Path
    table: Table  # `id`, then the columns
    kinds: dict[str, Kind]
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what a reader might not expect of separator and types
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
        return MetadataFacts(str(self.path), matched, len(self.table) - matched, self.left_out, self.notes)

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

    readers = {
        **dict.fromkeys((".csv", ".tsv"), _read_csv),
        **dict.fromkeys((".jsonl", ".ndjson"), _read_json_lines),
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        wanted = ", ".join(readers)
        raise MisuseError(f"--metadata {path}: got {path.suffix or 'no suffix'}, wanted one of {wanted}")
    if not path.is_file():
        raise MisuseError(f"--metadata {path}: no such file")
    try:
        with open_regular(path) as stream:
            found = reader(path, stream)
    except (BundleError, ValueError, OSError, KeyError, NotImplementedError) as error:
        raise MisuseError(f"--metadata {path}: cannot be read: {reason_of(error)}") from error
    kinds: dict[str, Kind] = {}
    columns = {ID: _ids(path, found.ids)}
    notes = list(found.notes)
    for name, column in found.columns.items():
        if column is not None:
            kinds[name], columns[name] = column.kind, column.values
            notes += [f"column {name!r} {column.note}"] if column.note else []
    left_out = tuple(name for name, column in found.columns.items() if column is None)
    return Metadata(path, pa.table(columns), kinds, left_out, tuple(notes))


@dataclass(frozen=True)
class _Read:
    """A table as read: ids, and the other columns; None for a column that filters do not support."""

    ids: ChunkedArray
    columns: dict[str, TypedColumn | None]
    notes: tuple[str, ...] = ()


def _read_csv(path: Path, stream: BinaryIO) -> _Read:
    import pyarrow as pa

    try:
        table = read_delimited(stream, path.name)
        names = table.names
        chunks: list[list[Array]] = [[] for _ in names]
        rows = iter(table.rows)
        begin = 0
        while block := list(islice(rows, _BLOCK)):
            block = [_full_row(row, names, begin + number) for number, row in enumerate(block, 1)]
            for name, column, cells in zip(names, chunks, zip(*block, strict=True), strict=True):
                column.append(_cells(name, cells, begin))
            begin += len(block)
    except MisuseError as error:
        raise ValueError(str(error)) from error  # `read_metadata` names the file
    arrays = [pa.chunked_array(column, pa.string()) for column in chunks]
    kept = [(name, array) for name, array in zip(names, arrays, strict=True) if name or not _is_empty(array)]
    _check_names(path, [name for name, _ in kept])
    columns = dict(kept)
    note = "" if table.delimiter == "," else f"columns are separated by {table.delimiter!r}"
    return _Read(
        columns.pop(ID), {name: from_text(array) for name, array in columns.items()}, (note,) * bool(note)
    )


def _full_row(row: list[str], names: Sequence[str], number: int) -> list[str]:
    """A row with as many cells as the header; empty cells beyond it are left out."""
    if len(row) > len(names) and not any(row[len(names) :]):
        row = row[: len(names)]
    if len(row) != len(names):
        raise MisuseError(
            f"row {number} has {len(row)} cells, wanted {len(names)} as in the header; a text that contains "
            "the separator needs quotes"
        )
    return row


def _cells(name: str, cells: Sequence[str], begin: int) -> Array:
    import pyarrow as pa

    try:
        return pa.array(utf8(cells) if name == ID else cells, pa.string())
    except UnicodeEncodeError as error:
        bad = next(number for number, cell in enumerate(cells, begin + 1) if utf8([cell]) != [cell])
        raise MisuseError(f"row {bad}, column {name!r} is not UTF-8; save the table as UTF-8") from error


def _is_empty(column: ChunkedArray) -> bool:
    return set(column.unique().to_pylist()) <= {""}


def _read_json_lines(path: Path, stream: BinaryIO) -> _Read:
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    for number, line in enumerate(open_text(stream), 1):
        if line.strip():
            row = parse_json(line, f"line {number}", "line")
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    _check_names(path, names)
    columns = {name: from_json([row.get(name) for row in rows]) for name in names}
    ids = columns.pop(ID)
    if ids is None or ids.kind not in ("text", "integer"):
        raise ValueError("ids are not text")
    return _Read(ids.values.cast(pa.string()), columns)


def _read_parquet(path: Path, stream: BinaryIO) -> _Read:
    from pyarrow.parquet import read_table

    table = read_table(stream)
    _check_names(path, table.schema.names)
    columns = {name: from_arrow(table[name]) for name in table.schema.names if name != ID}
    return _Read(table[ID], columns)


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
        if utf8([name]) != [name]:
            raise MisuseError(f"--metadata {path}: column {name!r} is not UTF-8; save the table as UTF-8")
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
