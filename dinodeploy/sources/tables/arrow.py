"""Arrow files and streams, also Feather: a column of images or of paths.

Files on disk are memory-mapped and read in place, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dinodeploy.errors import ImageError, reason_of
from dinodeploy.files.regular import open_regular
from dinodeploy.sources.input_file import InputFile, LocalFile, Unreadable, stamp_of_file
from dinodeploy.sources.source import Source, SourceOptions, Stamp
from dinodeploy.sources.tables import image_column

_MAGIC = b"ARROW1"  # first bytes of an Arrow file, not of a stream


class ArrowSource:
    """The images in one column, one per row."""

    def __init__(self, file: InputFile, schema: Any, column: str, ids: Sequence[str], own_ids: bool) -> None:
        self.ids = ids
        self.origins = image_column.column_origins(schema, column, file.name, own_ids)
        self.ids_are_locations = not own_ids
        self._file = file
        self._stamp = stamp_of_file(file)
        self._name = column
        self._column: Any = None

    def image(self, index: int) -> bytes:
        column = self._column
        if column is None:  # harmless where two threads open it
            try:
                column = self._column = _read(self._file)[0][self._name]
            except (OSError, ValueError) as error:
                raise ImageError(f"{self.ids[index]!r}: cannot be read: {reason_of(error)}") from error
        return image_column.bytes_of(column[index].as_py(), self.ids[index])

    def release(self) -> None:
        """Unmap the file; the next image maps it again."""
        self._column = None

    def stamp(self, index: int) -> Stamp:
        return self._stamp

    @property
    def is_open(self) -> bool:
        return self._column is not None

    close = release


def open_file(file: InputFile, options: SourceOptions) -> list[Source]:
    """The images in a file, or those it names; and the unreadable rest of a truncated file."""
    try:
        table, lost = _read(file)
    except (OSError, ValueError, EOFError) as error:
        return [Unreadable(file.name, f"cannot be read as Arrow: {reason_of(error)}")]
    column, holds_bytes = image_column.choose(table.schema, options.column, file.name)
    by = image_column.choose_id_column(table.schema.names, options, file.name)
    given = (value.as_py() for value in table[by]) if by is not None else iter(())
    source: Source
    if holds_bytes:
        ids = image_column.ids_of(file.name, table.num_rows, by, given)
        source = ArrowSource(file, table.schema, column, ids, by is not None)
    else:
        paths = (value.as_py() for value in table[column])
        rows = ((path, None if by is None else _text(next(given))) for path in paths)
        source = image_column.named_by(file, rows, options)
    return [source, Unreadable(f"{file.name}#rest", lost)] if lost else [source]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _read(file: InputFile) -> tuple[Any, str]:
    """The table, memory-mapped if it is on disk, and why its end is missing."""
    pa = image_column.pyarrow()
    if isinstance(file, LocalFile):
        open_regular(file.path).close()  # refuses a FIFO, which would block
        stream = pa.memory_map(image_column.arrow_path(file.path))
    else:
        stream = pa.BufferReader(file.read(0, file.size()))
    start = stream.read(len(_MAGIC))
    stream.seek(0)
    if start == _MAGIC:
        return pa.ipc.open_file(stream).read_all(), ""
    reader = pa.ipc.open_stream(stream)
    batches, lost = [], ""
    try:
        batches += iter(reader)
    except (OSError, ValueError) as error:
        rows = sum(batch.num_rows for batch in batches)
        lost = f"lost after {rows} rows: {reason_of(error)}"
    return pa.Table.from_batches(batches, reader.schema), lost
