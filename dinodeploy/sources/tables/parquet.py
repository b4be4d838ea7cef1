"""Parquet files: pictures in a column, or a column of paths.

Parquet cannot be read by row: what lies before a row in its row group is read on the way to it. So a file is
read forwards in stretches of some megabytes, the latest of which are kept; in order this reads everything
once, in whatever size row groups were written, and a small row group is kept whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Any

from dinodeploy.errors import ImageError, reason_of
from dinodeploy.files.regular import open_regular
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.place import DiskPlace, Place, Unreadable
from dinodeploy.sources.tables import columns, tables

if TYPE_CHECKING:
    from dinodeploy.sources import Source

_STRETCH = 1 << 20  # bytes of pictures that are read at once, about
_KEPT = 16  # stretches
_BUFFER = 1 << 20  # bytes of a column that are read ahead
_ROWS = 65_536  # of ids or paths that are read at once


class ParquetSource:
    """The pictures in one column of a file, row by row."""

    def __init__(self, place: Place, metadata: Any, column: str, ids: Sequence[str], own_ids: bool) -> None:
        self.ids = ids
        self.ids_are_places = not own_ids
        schema = metadata.schema.to_arrow_schema()
        self.origins = tables.origins_of(schema, column, place.name, own_ids)
        self._place = place
        self._metadata = metadata
        self._parquet: Any = None  # opened when it is first needed
        self._column = column
        groups = [self._metadata.row_group(group) for group in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(group.num_rows for group in groups)]
        self._rows = [_rows_of_stretch(group, column) for group in groups]
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._forward: tuple[int, int, Iterator[Any]] = (-1, 0, iter(()))  # group, next stretch, the rest
        self._lock = Lock()

    def picture(self, index: int) -> bytes:
        group = bisect_right(self._starts, index) - 1
        stretch, row = divmod(index - self._starts[group], self._rows[group])
        try:
            with self._lock:
                cell = self._read(group, stretch)[row].as_py()
        except (OSError, ValueError, StopIteration) as error:  # ArrowInvalid is a ValueError
            raise ImageError(f"{self.ids[index]!r}: cannot be read: {reason_of(error)}") from error
        return tables.bytes_of(cell, self.ids[index])

    def _read(self, group: int, stretch: int) -> Any:
        """Some rows of a group, from what is kept or by reading up to them."""
        kept = self._kept.get((group, stretch))
        if kept is not None:
            self._kept.move_to_end((group, stretch))
            return kept
        at, coming, rest = self._forward
        if at != group or coming > stretch:
            if self._parquet is None:
                self._parquet = _open(self._place, self._metadata)
            coming = 0
            rest = self._parquet.iter_batches(
                self._rows[group], row_groups=[group], columns=[self._column], use_threads=False
            )
        while coming <= stretch:
            batch = next(rest)
            left = self._starts[group + 1] - self._starts[group] - coming * self._rows[group]
            if len(batch) != min(left, self._rows[group]):  # the next ones would be other rows' pictures
                raise ValueError(f"got {len(batch)} rows at once, wanted {min(left, self._rows[group])}")
            self._kept[group, coming] = kept = batch.column(0)
            coming += 1
            self._forward = (group, coming, rest)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return kept

    def rest(self) -> None:
        """Let go of the file and of what was read; the next picture opens it anew."""
        with self._lock:
            self._forward = (-1, 0, iter(()))
            self._kept.clear()
            if self._parquet is not None:
                self._parquet.close(force=True)
                self._parquet = None

    def close(self) -> None:
        self.rest()


def _open(place: Place, metadata: Any = None) -> Any:
    pq = tables.pyarrow("parquet")
    if isinstance(place, DiskPlace):
        open_regular(place.name).close()  # a FIFO would be waited for
        return pq.ParquetFile(place.name, metadata=metadata, buffer_size=_BUFFER, pre_buffer=False)
    return pq.ParquetFile(place.open(), metadata=metadata, buffer_size=_BUFFER, pre_buffer=False)


def _rows_of_stretch(group: Any, column: str) -> int:
    chunks = [group.column(number) for number in range(group.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.startswith(column))
    return int(max(1, min(group.num_rows, _STRETCH * group.num_rows // max(1, size))))


def open_place(place: Place, options: SourceOptions) -> list[Source]:
    """The pictures in a file, or those it names. Raises MisuseError for a column that is none."""
    try:
        with _open(place) as parquet:  # thousands of files may be listed, so none stays open
            return [_source(place, parquet, options)]
    except (OSError, ValueError) as error:
        return [Unreadable(place.name, f"cannot be read as Parquet: {reason_of(error)}")]


def _source(place: Place, parquet: Any, options: SourceOptions) -> Source:
    schema = parquet.schema_arrow
    column, holds_pictures = tables.choose(schema, options.column, place.name)
    by = options.id_column
    if by is not None:
        by = columns.choose_column(schema.names, by, (), place.name)
    if not holds_pictures:
        cells = _values(parquet, [column] if by is None else [column, by])
        rows = ((row[0], None if by is None or row[-1] is None else str(row[-1])) for row in cells)
        return columns.named_by(place, rows, options)
    given = (row[0] for row in _values(parquet, [by])) if by is not None else iter(())
    ids = tables.ids_of(place.name, parquet.metadata.num_rows, by, given)
    return ParquetSource(place, parquet.metadata, column, ids, by is not None)


def _values(parquet: Any, names: list[str]) -> Iterator[tuple[Any, ...]]:
    """Some columns, row by row."""
    for batch in parquet.iter_batches(_ROWS, columns=list(dict.fromkeys(names))):
        by_name = {name: batch.column(batch.schema.get_field_index(name)).to_pylist() for name in names}
        yield from zip(*(by_name[name] for name in names), strict=True)
