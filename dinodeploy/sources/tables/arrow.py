"""Arrow files and streams, Feather included: pictures in a column, or a column of paths.

Files on disk are mapped into memory and read in place, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dinodeploy.errors import ImageError, reason_of
from dinodeploy.files.regular import open_regular
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.place import DiskPlace, Place, Unreadable
from dinodeploy.sources.tables import columns, tables

if TYPE_CHECKING:
    from dinodeploy.sources import Source

_MAGIC = b"ARROW1"  # an Arrow file begins with it, a stream does not


class ArrowSource:
    """The pictures in one column, row by row."""

    def __init__(self, place: Place, schema: Any, column: str, ids: Sequence[str], own_ids: bool) -> None:
        self.ids = ids
        self.origins = tables.origins_of(schema, column, place.name, own_ids)
        self.ids_are_places = not own_ids
        self._place = place
        self._name = column
        self._column: Any = None

    def picture(self, index: int) -> bytes:
        column = self._column
        if column is None:  # two threads that open it at once do no harm
            try:
                column = self._column = _read(self._place)[0][self._name]
            except (OSError, ValueError) as error:
                raise ImageError(f"{self.ids[index]!r}: cannot be read: {reason_of(error)}") from error
        return tables.bytes_of(column[index].as_py(), self.ids[index])

    def rest(self) -> None:
        """Let go of the file; the next picture maps it anew."""
        self._column = None

    def close(self) -> None:
        self.rest()


def open_place(place: Place, options: SourceOptions) -> list[Source]:
    """The pictures in a file, or those it names; and where it is cut off, that it is."""
    try:
        table, lost = _read(place)
    except (OSError, ValueError, EOFError) as error:
        return [Unreadable(place.name, f"cannot be read as Arrow: {reason_of(error)}")]
    column, holds_pictures = tables.choose(table.schema, options.column, place.name)
    by = options.id_column
    if by is not None:
        by = columns.choose_column(table.schema.names, by, (), place.name)
    given = (value.as_py() for value in table[by]) if by is not None else iter(())
    source: Source
    if holds_pictures:
        ids = tables.ids_of(place.name, table.num_rows, by, given)
        source = ArrowSource(place, table.schema, column, ids, by is not None)
    else:
        paths = (value.as_py() for value in table[column])
        rows = ((path, None if by is None else _text(next(given))) for path in paths)
        source = columns.named_by(place, rows, options)
    return [source, Unreadable(f"{place.name}#rest", lost)] if lost else [source]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _read(place: Place) -> tuple[Any, str]:
    """The table, mapped where it lies on disk, and what became of the rest of it."""
    pa = tables.pyarrow()
    if isinstance(place, DiskPlace):
        open_regular(place.name).close()  # a FIFO would be waited for
        file = pa.memory_map(place.name)
    else:
        file = pa.BufferReader(place.read(0, place.size()))
    start = file.read(len(_MAGIC))
    file.seek(0)
    if start == _MAGIC:
        return pa.ipc.open_file(file).read_all(), ""
    stream = pa.ipc.open_stream(file)
    batches, lost = [], ""
    try:
        batches += iter(stream)
    except (OSError, ValueError) as error:
        rows = sum(batch.num_rows for batch in batches)
        lost = f"lost after {rows} rows: {reason_of(error)}"
    return pa.Table.from_batches(batches, stream.schema), lost
