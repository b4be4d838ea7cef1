"""A table that names pictures: CSV or TSV with a header, one column of paths or URLs.

    path,label
    cats/1.jpg,cat

Relative paths start at the table's folder. Ids are the paths as they are reached, or what --id-column holds.
(Parquet may name pictures as well: `parquet.py`.)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from dinodeploy.errors import MisuseError, reason_of
from dinodeploy.sources import remote
from dinodeploy.sources.ids import PackedIds
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.paths import FileSource
from dinodeploy.sources.place import Place

# In lower case, the likeliest first.
PATH_COLUMNS = (
    "path", "filepath", "file_path", "image_path", "img_path", "file", "file_name", "filename", "image",
    "image_file", "img", "url", "image_url", "uri",
)  # fmt: skip
_DELIMITERS = ",;\t|"

Row = tuple[str | None, str | None]  # what the path column and the id column hold


def open_place(place: Place, options: SourceOptions) -> list[FileSource]:
    """The pictures that a table names. Raises MisuseError for a table or a column that is none."""
    try:
        with place.open() as file, io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
            return [named_by(place, _rows(text, place.name, options), options)]
    except (OSError, csv.Error) as error:
        raise MisuseError(
            f"{place.name!r} cannot be read: {reason_of(error)}; wanted a table with a header"
        ) from error


def named_by(place: Place, rows: Iterable[Row], options: SourceOptions) -> FileSource:
    """Pictures by the paths of a table's rows. A row without a path is a picture that is missing."""
    ids, paths = PackedIds(), PackedIds()
    missing = set()
    schemes: set[str] = set()
    for number, (path, id_) in enumerate(rows):
        found = _resolve(path, place, schemes) if path else f"{place.name}#{number}"
        if not path:
            missing.add(number)
        paths.append(found)
        if options.id_column is not None:
            if not id_:
                raise MisuseError(
                    f"{place.name!r}: row {number} has no {options.id_column!r}; "
                    "fill it, or name another id column"
                )
            ids.append(id_)
    if options.id_column is None:
        return FileSource(paths, options.timeout, missing=missing)
    return FileSource(ids, options.timeout, paths, missing)


def _resolve(path: str, place: Place, schemes: set[str]) -> str:
    return remote.require(path, schemes) if remote.is_url(path) else place.beside(path)


def choose_column(names: Sequence[str], wanted: str | None, usual: Sequence[str], where: str) -> str:
    """The column that is meant: `wanted`, the first usual one in any case, or the only one.

    Raises MisuseError.
    """
    if wanted is not None:
        if wanted in names:
            return wanted
        raise MisuseError(f"{where!r} has no column {wanted!r}, only {', '.join(names)}; name one of them")
    lower = {name.lower(): name for name in reversed(names)}
    for name in usual:
        if name in lower:
            return lower[name]
    if len(names) == 1:
        return names[0]
    raise MisuseError(
        f"{where!r} has columns {', '.join(map(repr, names))}, and none with a usual name "
        f"({', '.join(usual[:4])}, …); name the one that holds pictures: --column"
    )


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
