"""A table that names images: CSV or TSV with a header, one column of paths, URLs or images in base64.

    path,label
    cats/1.jpg,cat

Relative paths start at the table's folder. Ids are the resolved paths, or the contents of --id-column.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from threading import Lock

from dinodeploy.errors import MisuseError, reason_of
from dinodeploy.files.delimited import Delimited, read_delimited
from dinodeploy.images.base64_text import is_base64_image
from dinodeploy.sources.input_file import InputFile, stamp_of_file
from dinodeploy.sources.source import Source, SourceOptions
from dinodeploy.sources.tables.image_column import PATH_COLUMNS, Row, choose_column, ids_of, named_by
from dinodeploy.sources.tables.table_source import TableSource

_KEPT = 64  # cells: more than there are images ahead of the engine


class CsvCells:
    """One column, read forwards: the latest cells are kept, an earlier one begins again."""

    def __init__(self, file: InputFile, column: int) -> None:
        self._file = file
        self._column = column
        self._rows: Iterator[list[str]] | None = None
        self._stream = ExitStack()
        self._next = 0
        self._kept: OrderedDict[int, str | None] = OrderedDict()
        self._lock = Lock()

    def cell(self, row: int) -> str | None:
        with self._lock:
            if row not in self._kept:
                self._read_to(row)
            return self._kept[row]

    def _read_to(self, row: int) -> None:
        if self._rows is None or row < self._next:
            self._close()
            stream = self._stream.enter_context(self._file.open())
            self._rows = read_delimited(stream, self._file.name).rows
        while self._next <= row:
            self._kept[self._next] = _cell(next(self._rows), self._column)
            self._next += 1
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)

    def _close(self) -> None:
        self._stream.close()
        self._rows, self._next = None, 0

    def release(self) -> None:
        """Close the file and drop all cells; the next one opens it again."""
        with self._lock:
            self._close()
            self._kept.clear()

    @property
    def is_open(self) -> bool:
        return self._rows is not None


def open_file(file: InputFile, options: SourceOptions) -> list[Source]:
    """The images that a table names or holds. Raises MisuseError for a bad table or column."""
    try:
        with file.open() as stream:
            table = read_delimited(stream, file.name)
            column = table.names.index(choose_column(table.names, options.column, PATH_COLUMNS, file.name))
            rows = _rows(table, column, file.name, options)
            first: list[Row] = []
            for row in rows:  # to the first row with an image
                first.append(row)
                if row.path:
                    break
            if first and is_base64_image(first[-1].path or ""):
                return [_in_cells(file, column, chain(first, rows), options)]
            return [named_by(file, chain(first, rows), options)]
    except OSError as error:
        raise MisuseError(
            f"{file.name!r} cannot be read: {reason_of(error)}; wanted a table with a header"
        ) from error


def _in_cells(file: InputFile, column: int, rows: Iterable[Row], options: SourceOptions) -> TableSource:
    """Images in base64. The file is read once for the ids, and again for the images."""
    by = options.id_column
    values = (row.id for row in rows)
    ids = ids_of(file.name, values, by)
    return TableSource(
        CsvCells(file, column),
        ids,
        own_ids=by is not None,
        origins=(f"{file.name}: base64",),
        stamp=stamp_of_file(file),
        beside=file.beside,
        timeout=options.timeout,
    )


def _rows(table: Delimited, column: int, where: str, options: SourceOptions) -> Iterator[Row]:
    by = options.id_column
    id_column = None if by is None else table.names.index(choose_column(table.names, by, (), where))
    for row in table.rows:
        id_ = None if id_column is None else _cell(row, id_column)
        yield Row(_cell(row, column), id_, _problem(row, len(table.names)))


def _problem(row: list[str], wanted: int) -> str:
    """Why a row cannot be trusted: with more cells than the header, they stand in the wrong columns."""
    if any(cell.strip() for cell in row[wanted:]):
        return f"this row has {len(row)} cells, the header {wanted}; put cells with a delimiter into quotes"
    return ""


def _cell(row: list[str], column: int) -> str | None:
    return row[column].strip() or None if column < len(row) else None
