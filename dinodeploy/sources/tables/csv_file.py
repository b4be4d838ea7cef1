"""A table that names images: CSV or TSV with a header, one column of paths or URLs.

    path,label
    cats/1.jpg,cat

Relative paths start at the table's folder. Ids are the resolved paths, or the contents of --id-column.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from dinodeploy.errors import MisuseError, reason_of
from dinodeploy.sources.files import FileSource
from dinodeploy.sources.input_file import InputFile
from dinodeploy.sources.source import SourceOptions
from dinodeploy.sources.tables.image_column import PATH_COLUMNS, Row, choose_column, named_by

_DELIMITERS = ",;\t|"


def open_file(file: InputFile, options: SourceOptions) -> list[FileSource]:
    """The images that a table names. Raises MisuseError for a bad table or column."""
    try:
        with (
            file.open() as stream,
            io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="") as text,
        ):
            return [named_by(file, _rows(text, file.name, options), options)]
    except (OSError, csv.Error) as error:
        raise MisuseError(
            f"{file.name!r} cannot be read: {reason_of(error)}; wanted a table with a header"
        ) from error


def _rows(text: Iterable[str], where: str, options: SourceOptions) -> Iterator[Row]:
    lines = iter(text)
    header = next(lines, "")
    delimiter = max(_DELIMITERS, key=header.count)
    (names,) = csv.reader([header], delimiter=delimiter) if header.strip() else ([],)
    names = [name.strip() for name in names]
    if not names:
        raise MisuseError(f"{where!r} is empty; wanted a table with a header")
    column = names.index(choose_column(names, options.column, PATH_COLUMNS, where))
    by = options.id_column
    id_column = None if by is None else names.index(choose_column(names, by, (), where))
    for row in csv.reader(lines, delimiter=delimiter):
        if row:
            yield _cell(row, column), None if id_column is None else _cell(row, id_column)


def _cell(row: list[str], column: int) -> str | None:
    return row[column].strip() or None if column < len(row) else None
