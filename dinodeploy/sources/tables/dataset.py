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


class DatasetSource:
    """The images of one dataset, one per row."""

    def __init__(self, name: str, dataset: Any, column: str, ids: Sequence[str], own_ids: bool) -> None:
        self.ids = ids
        self.origins = image_column.column_origins(dataset.features.arrow_schema, column, name, own_ids)
        self.ids_are_locations = not own_ids
        self._dataset = dataset.select_columns([column]).with_format("arrow")  # encoded bytes
        self._column = column
        self._stamp = _stamp_of_files([entry["filename"] for entry in dataset.cache_files])

    def image(self, index: int) -> bytes | str:
        cell = self._dataset[index][self._column][0].as_py()
        if isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path"):
            return str(cell["path"])  # datasets may store a path instead of bytes
        return image_column.bytes_of(cell, self.ids[index])

    def stamp(self, index: int) -> Stamp:
        return self._stamp

    def close(self) -> None:
        self._dataset = None


def open_folder(folder: str, options: SourceOptions) -> Iterator[DatasetSource | FileSource]:
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


def _open(name: str, dataset: Any, options: SourceOptions) -> DatasetSource | FileSource:
    schema = dataset.features.arrow_schema
    column, holds_bytes = image_column.choose(schema, options.column, name)
    by = image_column.choose_id_column(schema.names, options, name)
    plain = dataset.with_format(None)
    if holds_bytes:
        ids = image_column.ids_of(name, len(dataset), by, plain[by] if by is not None else ())
        return DatasetSource(name, dataset, column, ids, by is not None)
    given = plain[by] if by is not None else (None for _ in range(len(dataset)))
    pairs = zip(plain[column], given, strict=True)
    rows = ((path, None if id_ is None else str(id_)) for path, id_ in pairs)
    return image_column.named_by(LocalFile(name), rows, options)


def _stamp_of_files(names: Sequence[str]) -> Stamp:
    """The size of all files of a dataset, and when the last was modified."""
    stamps = [stamp_of_file(LocalFile(name)) for name in names]
    sizes = [stamp.size for stamp in stamps if stamp.size is not None]
    times = [stamp.mtime_ns for stamp in stamps if stamp.mtime_ns is not None]
    return Stamp(sum(sizes), max(times)) if stamps and len(times) == len(stamps) else Stamp()
