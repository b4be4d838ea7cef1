"""Arrow files and streams, also Feather: a column of images or of paths.

Files on disk are memory-mapped and read in place, in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dinodeploy.errors import reason_of
from dinodeploy.files.regular import open_regular
from dinodeploy.sources.input_file import InputFile, LocalFile, Unreadable
from dinodeploy.sources.source import Source, SourceOptions
from dinodeploy.sources.tables import image_column

_MAGIC = b"ARROW1"  # first bytes of an Arrow file, not of a stream


class ArrowCells:
    """One column. The first cell maps the file."""

    def __init__(self, file: InputFile, column: str) -> None:
        self._file = file
        self._name = column
        self._column: Any = None

    def cell(self, row: int) -> Any:
        column = self._column
        if column is None:  # harmless where two threads open it
            column = self._column = image_column.storage_of(_read(self._file)[0][self._name])
        return column[row].as_py()

    def release(self) -> None:
        """Unmap the file; the next cell maps it again."""
        self._column = None

    @property
    def is_open(self) -> bool:
        return self._column is not None


def open_file(file: InputFile, options: SourceOptions) -> list[Source]:
    """The images in a file, or those it names; and the unreadable rest of a truncated file."""
    try:
        table, lost = _read(file)
    except (OSError, ValueError, EOFError) as error:
        return [Unreadable(file.name, f"cannot be read as Arrow: {reason_of(error)}")]
    found = image_column.choose(
        table.schema, options.column, file.name, lambda name: image_column.first_of(_values(table[name]))
    )
    by = image_column.choose_id_column(table.schema.names, options, file.name)
    given = _values(table[by]) if by is not None else iter(())
    source: Source
    if found.holds_images:
        ids = image_column.ids_of(file.name, given if by is not None else range(table.num_rows), by)
        lengths = image_column.lengths_of(table[found.name].chunks) if found.is_list else None
        source = image_column.source_of(
            file, table.schema, found, ArrowCells(file, found.name), ids, lengths, options
        )
    else:
        paths = _values(table[found.name])
        rows = (image_column.row_of(path, None if by is None else next(given)) for path in paths)
        source = image_column.named_by(file, rows, options)
    return [source, Unreadable(f"{file.name}#rest", lost)] if lost else [source]


def _values(column: Any) -> Iterator[Any]:
    return (value.as_py() for value in image_column.storage_of(column))


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
