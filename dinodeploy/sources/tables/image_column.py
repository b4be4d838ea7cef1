"""What all tables share: which column holds images, the ids of rows, and images named by paths.

    binary, or struct<bytes: binary, path: string>     the images themselves
    string                                             paths or URLs of images

The id of a row is the content of the id column, or the table and the row number: train.parquet#17.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

from dinodeploy.errors import ImageError, MisuseError, UnavailableError
from dinodeploy.sources import remote
from dinodeploy.sources.files import FileSource
from dinodeploy.sources.ids import IdList
from dinodeploy.sources.input_file import InputFile
from dinodeploy.sources.source import SourceOptions

# In lower case, the most likely first.
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content", "data")
PATH_COLUMNS = (
    "path", "filepath", "file_path", "image_path", "img_path", "file", "file_name", "filename", "image",
    "image_file", "img", "url", "image_url", "uri",
)  # fmt: skip

Row = tuple[str | None, str | None]  # contents of the path column and of the id column


def pyarrow(module: str = "") -> Any:
    """pyarrow, or one of its modules. Raises UnavailableError where it is missing."""
    try:
        return importlib.import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "tables of images need pyarrow, which is missing; pip install 'dinodeploy[parquet]'"
        ) from error


def arrow_path(path: str) -> str | bytes:
    """A path as pyarrow takes it: as bytes where it is not valid text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def choose(schema: Any, wanted: str | None, where: str) -> tuple[str, bool]:
    """The column of images, and whether it holds bytes (or else paths). Raises MisuseError."""
    images = [field.name for field in schema if _holds_bytes(field.type)]
    paths = [field.name for field in schema if _holds_text(field.type)]
    if wanted is None:
        usual = [name for name in images if name.lower() in IMAGE_COLUMNS]
        usual.sort(key=lambda name: IMAGE_COLUMNS.index(name.lower()))
        if usual or len(images) == 1:
            return (usual or images)[0], True
        if not images:
            return choose_column(paths or schema.names, None, PATH_COLUMNS, where), False
    name = choose_column(schema.names, wanted, IMAGE_COLUMNS, where)
    if name not in images + paths:
        raise MisuseError(
            f"{where!r}: column {name!r} is {schema.field(name).type}, wanted binary, "
            "struct<bytes, path> or paths; name another column"
        )
    return name, name in images


def choose_column(names: Sequence[str], wanted: str | None, usual: Sequence[str], where: str) -> str:
    """The column `wanted`, or the first with a usual name (in any case), or the only one.

    Raises MisuseError if no column fits.
    """
    if wanted is not None:
        if wanted in names:
            return _once(wanted, names, where)
        raise MisuseError(f"{where!r} has no column {wanted!r}, only {', '.join(names)}; name one of them")
    lower = {name.lower(): name for name in reversed(names)}
    for name in usual:
        if name in lower:
            return _once(lower[name], names, where)
    if len(names) == 1:
        return names[0]
    raise MisuseError(
        f"{where!r} has columns {', '.join(map(repr, names))}; none has a usual name "
        f"({', '.join(usual[:4])}, …); name the column of images: --column"
    )


def _once(name: str, names: Sequence[str], where: str) -> str:
    """`name`; MisuseError where several columns have it."""
    if names.count(name) > 1:
        raise MisuseError(f"{where!r} has {names.count(name)} columns {name!r}; rename all but one")
    return name


def choose_id_column(names: Sequence[str], options: SourceOptions, where: str) -> str | None:
    """The column of ids; None where ids are row numbers or paths. Raises MisuseError."""
    wanted = options.id_column
    return None if wanted is None else choose_column(names, wanted, (), where)


def column_origins(schema: Any, column: str, where: str, own_ids: bool) -> tuple[str, ...]:
    """The origins of a table of images (`sources.origins_of`)."""
    if not own_ids:
        try:
            if choose(schema, None, where)[0] == column:
                return ()
        except MisuseError:  # ambiguous without --column
            pass
    return (f"{where}: {column}",)


def ids_of(where: str, rows: int, id_column: str | None, values: Iterable[Any]) -> IdList:
    """The ids of a table's rows; `values` are those of the id column. Raises MisuseError for an empty one."""
    if id_column is None:
        return IdList(f"{where}#{row}" for row in range(rows))
    ids = IdList()
    for number, value in enumerate(values):
        if value is None or value == "":
            raise MisuseError(
                f"{where!r}: row {number} has no {id_column!r}; fill it, or name another id column"
            )
        ids.append(str(value))
    return ids


def named_by(file: InputFile, rows: Iterable[Row], options: SourceOptions) -> FileSource:
    """Images named by the rows (path, id) of a table. A row without a path has an id and no image."""
    ids, paths = IdList(), IdList()
    missing = set()
    schemes: set[str] = set()
    for number, (path, id_) in enumerate(rows):
        found = _resolve(path, file, schemes) if path else f"{file.name}#{number}"
        if not path:
            missing.add(number)
        paths.append(found)
        if options.id_column is not None:
            if not id_:
                raise MisuseError(
                    f"{file.name!r}: row {number} has no {options.id_column!r}; "
                    "fill it, or name another id column"
                )
            ids.append(id_)
    if options.id_column is None:
        return FileSource(paths, options.timeout, missing=missing)
    return FileSource(ids, options.timeout, paths, missing)


def _resolve(path: str, file: InputFile, schemes: set[str]) -> str:
    return remote.require(path, schemes) if remote.is_url(path) else file.beside(path)


def bytes_of(cell: Any, id_: str) -> bytes:
    """The encoded image in a cell. Raises ImageError for an empty cell."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise ImageError(f"{id_!r}: this row holds no image")
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
    """Ask a question that only newer versions of pyarrow know."""
    ask = getattr(pyarrow("types"), question, None)
    return bool(ask and ask(type_))
