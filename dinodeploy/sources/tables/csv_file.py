"""A table that names images: CSV or TSV with a header, one column of paths or URLs.

    path,label
    cats/1.jpg,cat

Relative paths start at the table's folder. Ids are the resolved paths, or the contents of --id-column.
"""

from __future__ import annotations

from collections.abc import Iterator

from dinodeploy.errors import MisuseError, reason_of
from dinodeploy.files.delimited import Delimited, read_delimited
from dinodeploy.sources.files import FileSource
from dinodeploy.sources.input_file import InputFile
from dinodeploy.sources.source import SourceOptions
from dinodeploy.sources.tables.image_column import PATH_COLUMNS, Row, choose_column, named_by


def open_file(file: InputFile, options: SourceOptions) -> list[FileSource]:
    """The images that a table names. Raises MisuseError for a bad table or column."""
    try:
        with file.open() as stream:
            table = read_delimited(stream, file.name)
            return [named_by(file, _rows(table, file.name, options), options)]
    except OSError as error:
        raise MisuseError(
            f"{file.name!r} cannot be read: {reason_of(error)}; wanted a table with a header"
        ) from error


def _rows(table: Delimited, where: str, options: SourceOptions) -> Iterator[Row]:
    column = table.names.index(choose_column(table.names, options.column, PATH_COLUMNS, where))
    by = options.id_column
    id_column = None if by is None else table.names.index(choose_column(table.names, by, (), where))
    for row in table.rows:
        yield _cell(row, column), None if id_column is None else _cell(row, id_column)


def _cell(row: list[str], column: int) -> str | None:
    return row[column].strip() or None if column < len(row) else None
