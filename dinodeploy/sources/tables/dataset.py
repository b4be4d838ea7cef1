"""A folder saved by Hugging Face `datasets` (`save_to_disk`): one dataset, or one per split.

The id of a row is the folder and the row number, dataset/train#17, or the content of the id column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dinodeploy.errors import MisuseError, UnavailableError, reason_of
from dinodeploy.files.paths import native_path
from dinodeploy.sources.files import FileSource
from dinodeploy.sources.input_file import LocalFile, stamp_of_file
from dinodeploy.sources.source import SourceOptions, Stamp
from dinodeploy.sources.tables import image_column
from dinodeploy.sources.tables.table_source import TableSource, spread

_FIRST_ROWS = 16  # to look at: they may be whole images in base64
_LIST_ROWS = 256  # lists of images, to count them


class DatasetCells:
    """One column of a dataset, as encoded bytes."""

    def __init__(self, dataset: Any, column: str) -> None:
        self._dataset = dataset.select_columns([column]).with_format("arrow")
        self._column = column

    def cell(self, row: int) -> Any:
        return image_column.storage_of(self._dataset[row][self._column])[0].as_py()

    def release(self) -> None: ...

    @property
    def is_open(self) -> bool:
        return False


def open_folder(folder: str, options: SourceOptions) -> Iterator[TableSource | FileSource]:
    """The images of every split. Raises MisuseError for a folder that cannot be read."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"{folder!r} needs `datasets`, which is missing; pip install 'dinodeploy[datasets]'"
        ) from error
    try:
        loaded = datasets.load_from_disk(native_path(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MisuseError(f"{folder!r} cannot be read as a dataset: {reason_of(error)}") from error
    splits = {f"{folder}/{name}": one for name, one in loaded.items()} if isinstance(loaded, dict) else {}
    for name, dataset in (splits or {folder: loaded}).items():
        yield _open(name, dataset, options)


def _open(name: str, dataset: Any, options: SourceOptions) -> TableSource | FileSource:
    schema = dataset.features.arrow_schema
    plain = dataset.with_format(None)
    found = image_column.choose(
        schema, options.column, name, lambda column: image_column.first_of(plain[:_FIRST_ROWS][column])
    )
    by = image_column.choose_id_column(schema.names, options, name)
    if found.holds_images:
        own_ids = by is not None
        ids = image_column.ids_of(name, plain[by] if own_ids else range(len(dataset)), by)
        places = None
        if found.is_list:
            ids, places = spread(ids, _lengths(dataset, found.name))
        return TableSource(
            DatasetCells(dataset, found.name),
            ids,
            own_ids=own_ids,
            origins=image_column.column_origins(schema, found.name, name, own_ids),
            stamp=_stamp_of_files([entry["filename"] for entry in dataset.cache_files]),
            beside=str,
            places=places,
            timeout=options.timeout,
        )
    given = plain[by] if by is not None else (None for _ in range(len(dataset)))
    pairs = zip(plain[found.name], given, strict=True)
    rows = (image_column.row_of(path, id_) for path, id_ in pairs)
    return image_column.named_by(LocalFile(name), rows, options)


def _lengths(dataset: Any, column: str) -> Iterator[int | None]:
    lists = dataset.select_columns([column]).with_format("arrow")
    parts = (lists[start : start + _LIST_ROWS][column] for start in range(0, len(dataset), _LIST_ROWS))
    return image_column.lengths_of(chunk for part in parts for chunk in part.chunks)


def _stamp_of_files(names: Sequence[str]) -> Stamp:
    """The size of all files of a dataset, and when the last was modified."""
    stamps = [stamp_of_file(LocalFile(name)) for name in names]
    sizes = [stamp.size for stamp in stamps if stamp.size is not None]
    times = [stamp.mtime_ns for stamp in stamps if stamp.mtime_ns is not None]
    return Stamp(sum(sizes), max(times)) if stamps and len(times) == len(stamps) else Stamp()
