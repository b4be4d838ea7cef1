"""Parquet files: a column of images or of paths.

Parquet has no random access to rows: reading a row reads the rows before it in its row group. So a file is
read forwards in chunks of about a megabyte, and the latest chunks are kept. Reading in order then reads
everything once for any size of row groups, and a small row group is kept whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from threading import Lock
from typing import Any

from dinodeploy.errors import reason_of
from dinodeploy.files.regular import open_regular
from dinodeploy.sources.input_file import InputFile, LocalFile, Unreadable
from dinodeploy.sources.source import Source, SourceOptions
from dinodeploy.sources.tables import image_column

CHUNK_BYTES = 1 << 20  # approximate size of images per chunk
CHUNKS_KEPT = 16

_BUFFER = 1 << 20  # bytes of read-ahead per column
_ROWS = 65_536  # ids or paths per read
_FIRST_ROWS = 16  # to look at: they may be whole images in base64
_LIST_ROWS = 256  # lists of images, to count them


class ParquetCells:
    """One column of a file, read forwards in chunks."""

    def __init__(self, file: InputFile, metadata: Any, column: str) -> None:
        self._file = file
        self._metadata = metadata
        self._parquet: Any = None  # opened by the first cell
        self._column = column
        groups = [self._metadata.row_group(group) for group in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(group.num_rows for group in groups)]
        self._rows = [_rows_per_chunk(group, column) for group in groups]
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._forward: tuple[int, int, Iterator[Any]] = (-1, 0, iter(()))  # group, next chunk, reader
        self._lock = Lock()

    def cell(self, row: int) -> Any:
        group = bisect_right(self._starts, row) - 1
        chunk, at = divmod(row - self._starts[group], self._rows[group])
        with self._lock:
            return self._read(group, chunk)[at].as_py()

    def _read(self, group: int, chunk: int) -> Any:
        """One chunk of a row group: kept, or read now with those before it."""
        kept = self._kept.get((group, chunk))
        if kept is not None:
            self._kept.move_to_end((group, chunk))
            return kept
        at, coming, rest = self._forward
        if at != group or coming > chunk:
            if self._parquet is None:
                self._parquet = _open(self._file, self._metadata)
            coming = 0
            rest = self._parquet.iter_batches(
                self._rows[group], row_groups=[group], columns=[self._column], use_threads=False
            )
        while coming <= chunk:
            batch = next(rest)
            left = self._starts[group + 1] - self._starts[group] - coming * self._rows[group]
            if len(batch) != min(left, self._rows[group]):  # later chunks would hold other rows
                raise ValueError(f"got a batch of {len(batch)} rows, wanted {min(left, self._rows[group])}")
            self._kept[group, coming] = kept = image_column.storage_of(batch.column(0))
            coming += 1
            self._forward = (group, coming, rest)
            if len(self._kept) > CHUNKS_KEPT:
                self._kept.popitem(last=False)
        return kept

    def release(self) -> None:
        """Close the file and drop all chunks; the next cell opens it again."""
        with self._lock:
            self._forward = (-1, 0, iter(()))
            self._kept.clear()
            if self._parquet is not None:
                self._parquet.close(force=True)
                self._parquet = None

    @property
    def is_open(self) -> bool:
        return self._parquet is not None


def _open(file: InputFile, metadata: Any = None) -> Any:
    pq = image_column.pyarrow("parquet")
    if isinstance(file, LocalFile):
        open_regular(file.path).close()  # refuses a FIFO, which would block
        path = image_column.arrow_path(file.path)
        source = path if isinstance(path, str) else image_column.pyarrow().OSFile(path)
        return pq.ParquetFile(source, metadata=metadata, buffer_size=_BUFFER, pre_buffer=False)
    return pq.ParquetFile(file.open(), metadata=metadata, buffer_size=_BUFFER, pre_buffer=False)


def _rows_per_chunk(group: Any, column: str) -> int:
    size = sum(chunk.total_uncompressed_size for chunk in _leaves(group, column))
    return int(max(1, min(group.num_rows, CHUNK_BYTES * group.num_rows // max(1, size))))


def _leaves(group: Any, column: str) -> list[Any]:
    """What a row group stores of a column: itself, or the fields inside it."""
    chunks = [group.column(number) for number in range(group.num_columns)]
    return [chunk for chunk in chunks if f"{chunk.path_in_schema}.".startswith(f"{column}.")]


def open_file(file: InputFile, options: SourceOptions) -> list[Source]:
    """The images in a file, or those it names. Raises MisuseError for an unknown column."""
    try:
        with _open(file) as parquet:  # closed again: there may be thousands
            return [_source(file, parquet, options)]
    except (OSError, ValueError) as error:
        return [Unreadable(file.name, f"cannot be read as Parquet: {reason_of(error)}")]


def _source(file: InputFile, parquet: Any, options: SourceOptions) -> Source:
    schema = parquet.schema_arrow

    def first(name: str) -> str | None:
        return image_column.first_of(row[0] for row in _values(parquet, [name], _FIRST_ROWS))

    found = image_column.choose(schema, options.column, file.name, first)
    by = image_column.choose_id_column(schema.names, options, file.name)
    if not found.holds_images:
        cells = _values(parquet, [found.name] if by is None else [found.name, by])
        rows = (image_column.row_of(row[0], None if by is None else row[-1]) for row in cells)
        return image_column.named_by(file, rows, options)
    given = range(parquet.metadata.num_rows) if by is None else (row[0] for row in _values(parquet, [by]))
    ids = image_column.ids_of(file.name, given, by)
    lengths = _lengths(parquet, found.name) if found.is_list else None
    cells_of = ParquetCells(file, parquet.metadata, found.name)
    return image_column.source_of(file, schema, found, cells_of, ids, lengths, options)


def _lengths(parquet: Any, column: str) -> Iterator[int | None]:
    """The length of every list, from the field that takes the least room: paths rather than images."""
    groups = [parquet.metadata.row_group(group) for group in range(parquet.metadata.num_row_groups)]
    sizes: Counter[str] = Counter()
    for group in groups:
        for leaf in _leaves(group, column):
            sizes[leaf.path_in_schema] += leaf.total_uncompressed_size
    if not sizes:
        return iter(())
    smallest = min(sizes, key=lambda path: sizes[path])
    batches = parquet.iter_batches(_LIST_ROWS, columns=[smallest], use_threads=False)
    return image_column.lengths_of(batch.column(0) for batch in batches)


def _values(parquet: Any, names: list[str], rows: int = _ROWS) -> Iterator[tuple[Any, ...]]:
    """The values of some columns, row by row. rows: to read at a time."""
    for batch in parquet.iter_batches(rows, columns=list(dict.fromkeys(names))):
        by_name = {
            name: image_column.storage_of(batch.column(batch.schema.get_field_index(name))).to_pylist()
            for name in names
        }
        yield from zip(*(by_name[name] for name in names), strict=True)
