"""What Parquet, Arrow files and saved datasets have in common: which column holds pictures, and a row's id.

    binary, or struct<bytes: binary, path: string>     the pictures themselves
    string                                             paths or URLs: see `columns.py`

A row's id is what the id column holds, or the table and the number of the row: train.parquet#17.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

from dinodeploy.errors import ImageError, MisuseError, UnavailableError
from dinodeploy.sources.ids import PackedIds
from dinodeploy.sources.tables.columns import PATH_COLUMNS, choose_column

# In lower case, the likeliest first.
PICTURE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content", "data")


def pyarrow(module: str = "") -> Any:
    """pyarrow or a module of it. Raises UnavailableError without it."""
    try:
        return importlib.import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "tables of pictures need pyarrow, which is missing; pip install 'dinodeploy[parquet]'"
        ) from error


def choose(schema: Any, wanted: str | None, where: str) -> tuple[str, bool]:
    """The column of pictures, and whether it holds their bytes, not their paths. Raises MisuseError."""
    pictures = [field.name for field in schema if _holds_bytes(field.type)]
    paths = [field.name for field in schema if _holds_text(field.type)]
    if wanted is None:
        usual = [name for name in pictures if name.lower() in PICTURE_COLUMNS]
        usual.sort(key=lambda name: PICTURE_COLUMNS.index(name.lower()))
        if usual or len(pictures) == 1:
            return (usual or pictures)[0], True
        if not pictures:
            return choose_column(paths or schema.names, None, PATH_COLUMNS, where), False
    name = choose_column(schema.names, wanted, PICTURE_COLUMNS, where)
    if name not in pictures + paths:
        raise MisuseError(
            f"{where!r}: column {name!r} is {schema.field(name).type}, wanted binary, "
            "struct<bytes, path> or paths; name another column"
        )
    return name, name in pictures


def origins_of(schema: Any, column: str, where: str, own_ids: bool) -> tuple[str, ...]:
    """What is to be remembered of a table's pictures besides their ids (`sources.origins_of`)."""
    if not own_ids:
        try:
            if choose(schema, None, where)[0] == column:
                return ()
        except MisuseError:  # without --column nobody would know
            pass
    return (f"{where}: {column}",)


def ids_of(where: str, rows: int, id_column: str | None, values: Iterable[Any]) -> Sequence[str]:
    """The ids of a table's rows; `values` are the id column's. Raises MisuseError for a row without."""
    if id_column is None:
        return NumberedIds(where, rows)
    ids = PackedIds()
    for number, value in enumerate(values):
        if value is None or value == "":
            raise MisuseError(
                f"{where!r}: row {number} has no {id_column!r}; fill it, or name another id column"
            )
        ids.append(str(value))
    return ids


class NumberedIds(Sequence[str]):
    """train.parquet#0, train.parquet#1, … in no memory at all."""

    def __init__(self, where: str, rows: int) -> None:
        self._where = where
        self._rows = range(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [f"{self._where}#{row}" for row in self._rows[index]]
        return f"{self._where}#{self._rows[index]}"


def bytes_of(cell: Any, id_: str) -> bytes:
    """The picture in a cell. Raises ImageError where there is none."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise ImageError(f"{id_!r}: this row holds no picture")
    return data


def _holds_bytes(type_: Any) -> bool:
    types = pyarrow("types")
    if types.is_struct(type_):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in type_)
    return bool(types.is_binary(type_) or types.is_large_binary(type_) or _named(type_, "is_binary_view"))


def _holds_text(type_: Any) -> bool:
    types = pyarrow("types")
    return bool(types.is_string(type_) or types.is_large_string(type_) or _named(type_, "is_string_view"))


def _named(type_: Any, question: str) -> bool:
    """What only newer versions of pyarrow can ask."""
    ask = getattr(pyarrow("types"), question, None)
    return bool(ask and ask(type_))
