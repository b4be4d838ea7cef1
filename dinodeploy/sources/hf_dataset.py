"""A folder that Hugging Face's `datasets` saved (`save_to_disk`), one split or several.

An id is the value of the id column, else `folder#row`, or `folder/split#row`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinodeploy.errors import ImageError, MisuseError, UnavailableError, first_line
from dinodeploy.sources.ids import PackedIds, repeated
from dinodeploy.sources.lists import choose_column
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.tables import ID_COLUMNS, PICTURE_COLUMNS

_STATE, _DICT = "state.json", "dataset_dict.json"


def is_saved_dataset(folder: Path) -> bool:
    return (folder / _DICT).is_file() or (
        (folder / _STATE).is_file() and (folder / "dataset_info.json").is_file()
    )


def saved_splits(folder: Path) -> list[Path]:
    """The folder of each split; the folder itself where there are none. Raises MisuseError."""
    if not (folder / _DICT).is_file():
        return [folder]
    try:
        return [folder / name for name in json.loads((folder / _DICT).read_text())["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MisuseError(f"{folder / _DICT} does not name the splits: {first_line(error)}") from error


class SavedDataset:
    """The pictures of one split, row by row, mapped into memory."""

    def __init__(self, folder: Path, options: SourceOptions) -> None:
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise UnavailableError(
                f"{folder} needs datasets, which is not installed: pip install 'dinodeploy[datasets]'"
            ) from error
        try:
            rows = datasets.load_from_disk(str(folder))
        except (OSError, ValueError, KeyError) as error:
            raise MisuseError(f"{folder} cannot be read as a saved dataset: {first_line(error)}") from error
        features = rows.features
        pictures = [name for name, kind in features.items() if _holds_pictures(kind, datasets)]
        column = choose_column(pictures, options.column, PICTURE_COLUMNS, str(folder))
        if isinstance(features[column], datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        self._folder = folder
        self._column = column
        self.ids: Sequence[str] = PackedIds(self._name_rows(rows, options.id_column))
        if doubles := repeated(self.ids):
            id_, places = next(iter(doubles.items()))
            raise MisuseError(
                f"{folder}: rows {places[0]} and {places[1]} have the same id {id_!r}; "
                "choose a column of distinct ids by --id-column"
            )
        self._rows = rows.select_columns([column])
        self._lock = threading.Lock()

    def picture(self, index: int) -> bytes | str:
        try:
            with self._lock:
                value = self._rows[index][self._column]
        except (OSError, ValueError) as error:
            raise ImageError(f"{self.ids[index]!r}: cannot be read: {first_line(error)}") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if content:
            return bytes(content)
        if isinstance(value, dict) and value.get("path"):
            return str(value["path"])
        raise ImageError(f"{self.ids[index]!r}: the row holds no picture")

    def close(self) -> None: ...

    def _name_rows(self, rows: Any, wanted: str | None) -> list[str]:
        names = rows.column_names
        if wanted is not None and wanted not in names:
            raise MisuseError(
                f"{self._folder} has no column {wanted!r}; it has {', '.join(names)}: see --id-column"
            )
        column = wanted or next((name for name in ID_COLUMNS if name in names and name != self._column), None)
        if column is None:
            return [f"{self._folder.as_posix()}#{row}" for row in range(len(rows))]
        return [str(value) for value in rows.with_format(None)[column]]


def _holds_pictures(kind: Any, datasets: Any) -> bool:
    return isinstance(kind, datasets.Image) or getattr(kind, "dtype", None) in ("binary", "large_binary")
