"""What all tables share: which column holds images, the ids of rows, and images named by paths.

    binary of any width, struct<bytes, path>     the images themselves
    string                                       paths or URLs of images, or images in base64
    a list of these                              several images in a row

Dictionaries, extension types and runs count as what they hold.

The id of a row is the content of the id column, or the table and the row number: train.parquet#17.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.images.base64_text import is_base64_image
from dinodeploy.sources.files import FileSource, resolve
from dinodeploy.sources.ids import IdList
from dinodeploy.sources.input_file import InputFile, stamp_of_file
from dinodeploy.sources.source import SourceOptions
from dinodeploy.sources.tables.table_source import Cells, TableSource, spread

# In lower case, the most likely first.
IMAGE_COLUMNS = (
    "image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content", "data", "images", "imgs",
)  # fmt: skip
PATH_COLUMNS = (
    "path", "filepath", "file_path", "image_path", "img_path", "file", "file_name", "filename", "image",
    "image_file", "img", "url", "image_url", "uri", "image_base64", "base64", "b64", "images", "image_urls",
    "urls", "image_paths", "paths",
)  # fmt: skip

_SMALLEST = 32  # bytes: no image is smaller


class Row(NamedTuple):
    """The contents of the path column and of the id column; problem: why the row cannot be used."""

    path: str | None
    id: str | None
    problem: str = ""


def row_of(path: Any, id_: Any) -> Row:
    """A row from cells of any type."""
    return Row(path or None, None if id_ is None else str(id_))


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


@dataclass(frozen=True)
class ImageColumn:
    """A column of images. holds_images: they are in the cells; else the cells name them, one per row."""

    name: str
    holds_images: bool
    is_list: bool = False


def choose(
    schema: Any, wanted: str | None, where: str, texts: Callable[[str], str | None] | None = None
) -> ImageColumn:
    """The column of images. Raises MisuseError.

    texts: gives the first text of a column, which may be an image in base64.
    """
    kinds = {field.name: _kind(field.type) for field in schema}
    images = [field.name for field in schema if kinds[field.name][0] == "bytes"]
    named = [field.name for field in schema if kinds[field.name] == ("text", False)]
    name = None
    if wanted is None:
        usual = [name for name in images if name.lower() in IMAGE_COLUMNS]
        usual.sort(key=lambda name: IMAGE_COLUMNS.index(name.lower()))
        if usual or len(images) == 1:
            name = _once((usual or images)[0], schema.names, where)
        elif not images:
            name = choose_column(named or schema.names, None, PATH_COLUMNS, where)
            _once(name, schema.names, where)
    if name is None:
        name = choose_column(schema.names, wanted, IMAGE_COLUMNS, where)
    kind, is_list = kinds[name]
    if not kind:
        raise MisuseError(
            f"{where!r}: column {name!r} is {_short(schema.field(name).type)}, wanted binary, "
            "struct<bytes, path>, base64, paths, or lists of these; name another column"
        )
    first = texts(name) if kind == "text" and not is_list and texts is not None else None
    return ImageColumn(name, kind == "bytes" or is_list or is_base64_image(first or ""), is_list)


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
            if choose(schema, None, where).name == column:
                return ()
        except MisuseError:  # ambiguous without --column
            pass
    return (f"{where}: {column}",)


def ids_of(where: str, values: Iterable[Any], id_column: str | None) -> IdList:
    """The ids of a table's rows. values: of the id column, or anything where there is no such column.

    Raises MisuseError for an empty id.
    """
    if id_column is None:
        return IdList(f"{where}#{row}" for row, _ in enumerate(values))
    ids = IdList()
    for number, value in enumerate(values):
        if value is None or value == "":
            raise MisuseError(
                f"{where!r}: row {number} has no {id_column!r}; fill it, or name another id column"
            )
        ids.append(_id(value, where, id_column))
    return ids


def _id(value: Any, where: str, id_column: str) -> str:
    """The id in a cell. Raises MisuseError for one that is neither text nor a number."""
    if isinstance(value, (bytes, dict, list, tuple)):
        raise MisuseError(
            f"{where!r}: column {id_column!r} holds {type(value).__name__}, wanted text or numbers as ids; "
            "name another column"
        )
    return str(value)


def named_by(file: InputFile, rows: Iterable[Row], options: SourceOptions) -> FileSource:
    """Images named by the rows (path, id) of a table. A row without a path has an id and no image."""
    ids, paths = IdList(), IdList()
    missing: dict[int, str] = {}
    schemes: set[str] = set()
    for number, (path, id_, problem) in enumerate(rows):
        found = f"{file.name}#{number}"
        if not path or problem:
            missing[number] = problem or "this row has no image"
        else:
            found = resolve(path, file.beside, schemes)
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


def source_of(
    file: InputFile,
    schema: Any,
    found: ImageColumn,
    cells: Cells,
    ids: IdList,
    lengths: Iterable[int | None] | None,
    options: SourceOptions,
) -> TableSource:
    """The images in the cells of a column. ids: of the rows; lengths: of the lists in them."""
    places = None
    if lengths is not None:
        ids, places = spread(ids, lengths)
    own_ids = options.id_column is not None
    return TableSource(
        cells,
        ids,
        own_ids=own_ids,
        origins=column_origins(schema, found.name, file.name, own_ids),
        stamp=stamp_of_file(file),
        beside=file.beside,
        places=places,
        timeout=options.timeout,
    )


def storage_of(column: Any) -> Any:
    """A column, or an array, without the extension type around its values."""
    if not isinstance(column.type, pyarrow().BaseExtensionType):
        return column
    if hasattr(column, "chunks"):
        return pyarrow().chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    return column.storage


def lengths_of(arrays: Iterable[Any]) -> Iterator[int | None]:
    """The length of every list in arrays of lists; None for null."""
    compute = pyarrow("compute")
    for one in arrays:
        stored = storage_of(one)
        if isinstance(stored, pyarrow().DictionaryArray):
            stored = stored.dictionary_decode()
        yield from compute.list_value_length(stored).to_pylist()


def first_of(values: Iterable[Any]) -> str | None:
    """The first text that is not empty."""
    return next((value for value in values if isinstance(value, str) and value.strip()), None)


def _kind(type_: Any) -> tuple[str, bool]:
    """Whether a type holds "bytes", "text" or "" (no images), and whether it holds lists of them."""
    type_ = _stored(type_)
    lists = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    if any(_named(type_, ask) for ask in lists):
        kind = _cell_kind(_stored(type_.value_type))
        return kind, bool(kind)
    return _cell_kind(type_), False


def _cell_kind(type_: Any) -> str:
    types = pyarrow("types")
    if types.is_struct(type_):
        stored = {field.name: _stored(field.type) for field in type_}
        kinds = {name: "" if types.is_struct(kind) else _cell_kind(kind) for name, kind in stored.items()}
        holding = [name for name, kind in kinds.items() if kind == "bytes"]
        if "bytes" in holding or len(holding) == 1:
            return "bytes"
        return "bytes" if kinds.get("path") == "text" and len(kinds) == 1 else ""
    if types.is_fixed_size_binary(type_):
        return "bytes" if type_.byte_width >= _SMALLEST else ""
    if types.is_binary(type_) or types.is_large_binary(type_) or _named(type_, "is_binary_view"):
        return "bytes"
    is_text = types.is_string(type_) or types.is_large_string(type_) or _named(type_, "is_string_view")
    return "text" if is_text else ""


def _stored(type_: Any) -> Any:
    """The type of the values behind extensions, dictionaries and runs."""
    types = pyarrow("types")
    while True:
        if isinstance(type_, pyarrow().BaseExtensionType):
            type_ = type_.storage_type
        elif types.is_dictionary(type_) or _named(type_, "is_run_end_encoded"):
            type_ = type_.value_type
        else:
            return type_


def _short(type_: Any) -> str:
    text = " ".join(str(type_).split())
    return text if len(text) <= 80 else f"{text[:80]}…"


def _named(type_: Any, question: str) -> bool:
    """Ask a question that only newer versions of pyarrow know."""
    ask = getattr(pyarrow("types"), question, None)
    return bool(ask and ask(type_))
