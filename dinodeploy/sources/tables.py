"""Parquet tables: a column of encoded pictures, or a column of paths.

    pictures   binary, or struct<bytes: binary, path: string> as Hugging Face's `datasets` writes it
    paths      string: relative to the table's folder, or URLs

An id is the value of the id column (`--id-column`, or one of a usual name), else `table.parquet#row`. Few
rows are in memory at once, whatever the table's row groups are.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from dinodeploy.errors import ImageError, MisuseError, UnavailableError, first_line
from dinodeploy.sources.ids import PackedIds, repeated
from dinodeploy.sources.lists import PATH_COLUMNS, choose_column, resolve_path
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.storage import Storage, StorageFile, is_url, open_storage

PICTURE_COLUMNS = ("image", "img", "picture", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content")
ID_COLUMNS = ("id", "key", "__key__", "image_id", "uid", "uuid", "file_name", "filename", "path", "url")

_BUFFER = 1 << 20  # bytes; without one a whole row group would be read
_ROWS = 32  # of one read
_READS = 8  # kept: decoding threads ask a little out of order


class TableSource:
    """The pictures in a Parquet table, row by row."""

    def __init__(self, table: ParquetTable, column: str, options: SourceOptions) -> None:
        self._table = table
        self._column = column
        self.ids: Sequence[str] = PackedIds(self._name_rows(options.id_column))
        if doubles := repeated(self.ids):
            id_, rows = next(iter(doubles.items()))
            raise MisuseError(
                f"{table.name}: rows {rows[0]} and {rows[1]} have the same id {id_!r}; "
                "choose a column of distinct ids by --id-column"
            )
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, list[Any]] = OrderedDict()  # by their first row
        self._group = -1
        self._batches: Iterator[Any] = iter(())
        self._next = 0

    def picture(self, index: int) -> bytes:
        with self._lock:
            try:
                value = self._value(index)
            except (OSError, ValueError) as error:
                self._group = -1
                raise ImageError(f"{self.ids[index]!r}: cannot be read: {first_line(error)}") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if not content:
            raise ImageError(f"{self.ids[index]!r}: the row holds no picture")
        return bytes(content)

    def close(self) -> None:
        self._table.close()

    def _value(self, index: int) -> Any:
        while (kept := self._find(index)) is None:
            group = self._table.group_of(index)
            if group != self._group or index < self._next:  # else what is wanted comes further on
                self._group, self._next = group, self._table.first_row(group)
                self._batches = self._table.batches(group, self._column, _ROWS)
            batch = next(self._batches).column(0).to_pylist()
            self._kept[self._next] = batch
            self._next += len(batch)
            while len(self._kept) > _READS:
                self._kept.popitem(last=False)
        return kept[0]

    def _find(self, index: int) -> tuple[Any] | None:
        for first, rows in self._kept.items():
            if first <= index < first + len(rows):
                return (rows[index - first],)
        return None

    def _name_rows(self, wanted: str | None) -> Iterator[str]:
        column = self._table.id_column(wanted)
        if column is None:
            return (f"{self._table.name}#{row}" for row in range(self._table.rows))
        return (str(value) for value in self._table.values(column))


class ParquetTable:
    """A table's schema and row groups. Raises MisuseError for a file that is none."""

    def __init__(self, name: str, timeout: float) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError as error:
            raise UnavailableError(
                f"{name} needs pyarrow, which is not installed: pip install 'dinodeploy[parquet]'"
            ) from error
        self.name = name
        self._storage: Storage | None = None
        try:
            self._storage = open_storage(name, timeout)
            file = pa.PythonFile(StorageFile(self._storage), mode="r")
            self._file = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
        except (OSError, ValueError) as error:
            self.close()
            raise MisuseError(f"{name!r} cannot be read as a Parquet table: {first_line(error)}") from error
        metadata = self._file.metadata
        self.rows = metadata.num_rows
        self._ends = list(accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)))
        self.schema = self._file.schema_arrow

    def group_of(self, row: int) -> int:
        return bisect_right(self._ends, row)

    def first_row(self, group: int) -> int:
        return self._ends[group - 1] if group else 0

    def batches(self, group: int, column: str, rows: int) -> Iterator[Any]:
        return iter(
            self._file.iter_batches(batch_size=rows, row_groups=[group], columns=[column], use_threads=False)
        )

    def values(self, column: str) -> Iterator[Any]:
        """A whole column, a few thousand rows at a time."""
        for batch in self._file.iter_batches(batch_size=4096, columns=[column], use_threads=False):
            yield from batch.column(0).to_pylist()

    def choose(self, wanted: str | None) -> tuple[str, bool]:
        """The column with pictures or paths, and whether it holds pictures. Raises MisuseError."""
        import pyarrow.types as types

        pictures = [field.name for field in self.schema if _holds_pictures(field.type)]
        texts = [
            field.name
            for field in self.schema
            if types.is_string(field.type) or types.is_large_string(field.type)
        ]
        if wanted is not None and wanted in self.schema.names and wanted not in (*pictures, *texts):
            kind = self.schema.field(wanted).type
            raise MisuseError(
                f"{self.name}: column {wanted!r} is {kind}; wanted pictures (binary) or paths (string)"
            )
        if wanted is None and pictures:
            return choose_column(pictures, None, PICTURE_COLUMNS, self.name), True
        column = choose_column(self.schema.names if wanted else texts, wanted, PATH_COLUMNS, self.name)
        return column, column in pictures

    def id_column(self, wanted: str | None) -> str | None:
        """The column with ids, or none. Raises MisuseError for one that is not there."""
        import pyarrow.types as types

        if wanted is not None:
            if wanted not in self.schema.names:
                known = ", ".join(self.schema.names)
                raise MisuseError(f"{self.name} has no column {wanted!r}; it has {known}: see --id-column")
            return wanted
        usable = {
            field.name.lower(): field.name
            for field in self.schema
            if types.is_string(field.type)
            or types.is_large_string(field.type)
            or types.is_integer(field.type)
        }
        return next((usable[name] for name in ID_COLUMNS if name in usable), None)

    def close(self) -> None:
        if self._storage is not None:
            self._storage.close()


def read_path_column(table: ParquetTable, column: str) -> Iterator[str]:
    """The ids of a table of paths; rows without one are left out."""
    folder = "" if is_url(table.name) else Path(table.name).parent.as_posix()
    return (resolve_path(value, folder) for value in table.values(column) if value)


def _holds_pictures(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_pictures(field.type) for field in kind)
    return types.is_binary(kind) or types.is_large_binary(kind)
