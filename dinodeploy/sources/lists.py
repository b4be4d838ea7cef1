"""Lists of paths: a text file with one a line, or one column of a CSV, TSV or Parquet table.

Paths are relative to the list's own folder; URLs stand as they are. Empty lines and lines that begin with #
are left out. `-` is the standard input, relative to where one is.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dinodeploy.errors import MisuseError, first_line
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.storage import is_url

# A column that holds paths is called one of these, in this order.
PATH_COLUMNS = ("path", "filepath", "file_path", "filename", "file_name", "file", "image_path", "image_file",
                "image", "img", "url", "image_url")  # fmt: skip
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_paths(name: str, options: SourceOptions) -> Iterator[str]:
    """The paths of a list, in order, as ids. Raises MisuseError for a list that cannot be read."""
    if name == "-":
        yield from _lines(sys.stdin, "")
        return
    path = Path(name)
    folder = path.parent.as_posix()
    try:
        if path.suffix.lower() in _DELIMITERS:
            yield from _resolve(_cells(path, options.column), folder)
        else:
            with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
                yield from _lines(file, folder)
    except (OSError, UnicodeError, csv.Error) as error:
        raise MisuseError(f"the list {name!r} cannot be read: {first_line(error)}") from error


def _lines(lines: Iterable[str], folder: str) -> Iterator[str]:
    stripped = (line.rstrip("\r\n") for line in lines)
    return _resolve((line for line in stripped if line.strip() and not line.startswith("#")), folder)


def _cells(path: Path, column: str | None) -> Iterator[str]:
    """One column of a table with a header; rows without a value are left out."""
    delimiter = _DELIMITERS[path.suffix.lower()]
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter)
        header = next(rows, [])
        place = header.index(choose_column(header, column, PATH_COLUMNS, str(path)))
        for number, row in enumerate(rows, 2):
            if not row:
                continue
            if len(row) <= place:
                raise MisuseError(f"{path}, line {number}: got {len(row)} cells, wanted {len(header)}")
            if row[place]:
                yield row[place]


def _resolve(names: Iterable[str], folder: str) -> Iterator[str]:
    for name in names:
        yield resolve_path(name, folder)


def resolve_path(name: str, folder: str) -> str:
    """A path as the list's reader reaches it: relative ones start from the list's folder."""
    return name if is_url(name) else Path(folder, name).as_posix()


def choose_column(columns: Sequence[str], wanted: str | None, usual: Sequence[str], where: str) -> str:
    """The column of that name, or the first usual one, or the only one. Raises MisuseError."""
    known = ", ".join(columns) or "none"
    if wanted is not None:
        if wanted not in columns:
            raise MisuseError(f"{where} has no column {wanted!r}; it has {known}: choose one by --column")
        return wanted
    by_lower = {column.lower(): column for column in reversed(columns)}
    for name in usual:
        if name in by_lower:
            return by_lower[name]
    if len(columns) == 1:
        return columns[0]
    raise MisuseError(f"{where} has columns {known}, none of a usual name; choose one by --column")
