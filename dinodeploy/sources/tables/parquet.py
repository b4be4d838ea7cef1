"""Parquet files: a column of images or of paths.

Parquet has no random access to rows: reading a row reads the rows before it in its row group. So a file is
read forwards in chunks of about a megabyte, and the latest chunks are kept. Reading in order then reads
everything once for any size of row groups, and a small row group is kept whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from threading import Lock
from typing import Any

from dinodeploy.errors import ImageError, reason_of
from dinodeploy.files.regular import open_regular
from dinodeploy.sources.ids import IdList
from dinodeploy.sources.input_file import InputFile, LocalFile, Unreadable, stamp_of_file
from dinodeploy.sources.source import Source, SourceOptions, Stamp
from dinodeploy.sources.tables import image_column

CHUNK_BYTES = 1 << 20  # approximate size of images per chunk
CHUNKS_KEPT = 16

_BUFFER = 1 << 20  # bytes of read-ahead per column
_ROWS = 65_536  # ids or paths per read


class ParquetSource:
    """The images in one column of a file, one per row."""

    def __init__(self, file: InputFile, metadata: Any, column: str, ids: IdList, own_ids: bool) -> None:
        self.ids = ids
        self.ids_are_locations = not own_ids
        schema = metadata.schema.to_arrow_schema()
        self.origins = image_column.column_origins(schema, column, file.name, own_ids)
        self._file = file
        self._stamp = stamp_of_file(file)
        self._metadata = metadata
        self._parquet: Any = None  # opened by the first image
        self._column = column
        groups = [self._metadata.row_group(group) for group in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(group.num_rows for group in groups)]
        self._rows = [_rows_per_chunk(group, column) for group in groups]
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._forward: tuple[int, int, Iterator[Any]] = (-1, 0, iter(()))  # group, next chunk, reader
        self._lock = Lock()

    def image(self, index: int) -> bytes:
        group = bisect_right(self._starts, index) - 1
        chunk, row = divmod(index - self._starts[group], self._rows[group])
        try:
            with self._lock:
                cell = self._read(group, chunk)[row].as_py()
        except (OSError, ValueError, StopIteration) as error:  # ArrowInvalid is a ValueError
            raise ImageError(f"{self.ids[index]!r}: cannot be read: {reason_of(error)}") from error
        return image_column.bytes_of(cell, self.ids[index])

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
            self._kept[group, coming] = kept = batch.column(0)
            coming += 1
            self._forward = (group, coming, rest)
            if len(self._kept) > CHUNKS_KEPT:
                self._kept.popitem(last=False)
        return kept

    def release(self) -> None:
        """Close the file and drop all chunks; the next image opens it again."""
        with self._lock:
            self._forward = (-1, 0, iter(()))
            self._kept.clear()
            if self._parquet is not None:
                self._parquet.close(force=True)
                self._parquet = None

    def stamp(self, index: int) -> Stamp:
        return self._stamp

    @property
    def is_open(self) -> bool:
        return self._parquet is not None

    close = release


def _open(file: InputFile, metadata: Any = None) -> Any:
    pq = image_column.pyarrow("parquet")
    if isinstance(file, LocalFile):
        open_regular(file.path).close()  # refuses a FIFO, which would block
        path = image_column.arrow_path(file.path)
        source = path if isinstance(path, str) else image_column.pyarrow().OSFile(path)
        return pq.ParquetFile(source, metadata=metadata, buffer_size=_BUFFER, pre_buffer=False)
    return pq.ParquetFile(file.open(), metadata=metadata, buffer_size=_BUFFER, pre_buffer=False)


def _rows_per_chunk(group: Any, column: str) -> int:
    chunks = [group.column(number) for number in range(group.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.startswith(column))
    return int(max(1, min(group.num_rows, CHUNK_BYTES * group.num_rows // max(1, size))))


def open_file(file: InputFile, options: SourceOptions) -> list[Source]:
    """The images in a file, or those it names. Raises MisuseError for an unknown column."""
    try:
        with _open(file) as parquet:  # closed again: there may be thousands
            return [_source(file, parquet, options)]
    except (OSError, ValueError) as error:
        return [Unreadable(file.name, f"cannot be read as Parquet: {reason_of(error)}")]


def _source(file: InputFile, parquet: Any, options: SourceOptions) -> Source:
    schema = parquet.schema_arrow
    column, holds_bytes = image_column.choose(schema, options.column, file.name)
    by = image_column.choose_id_column(schema.names, options, file.name)
    if not holds_bytes:
        cells = _values(parquet, [column] if by is None else [column, by])
        rows = ((row[0], None if by is None or row[-1] is None else str(row[-1])) for row in cells)
        return image_column.named_by(file, rows, options)
    given = (row[0] for row in _values(parquet, [by])) if by is not None else iter(())
    ids = image_column.ids_of(file.name, parquet.metadata.num_rows, by, given)
    return ParquetSource(file, parquet.metadata, column, ids, by is not None)


def _values(parquet: Any, names: list[str]) -> Iterator[tuple[Any, ...]]:
    """The values of some columns, row by row."""
    for batch in parquet.iter_batches(_ROWS, columns=list(dict.fromkeys(names))):
        by_name = {name: batch.column(batch.schema.get_field_index(name)).to_pylist() for name in names}
        yield from zip(*(by_name[name] for name in names), strict=True)
