"""Tables with a column of encoded images: Parquet, and Arrow as Hugging Face's `datasets` writes it.

    image   binary, or struct<bytes: binary, path: string>
    label   integer or string (optional); integers get class names from Hugging Face's metadata, if present

Arrow files are memory-mapped. Parquet has no fast access by row, so it is converted to Arrow once, in a cache
folder. Needs pyarrow: the `parquet` extra.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from dinov3_ref.atomic import replacing
from dinov3_ref.data.datasets.encoded import EncodedImages, require_some
from dinov3_ref.data.datasets.tar import expand_paths
from dinov3_ref.errors import DataError
from dinov3_ref.json_file import parse_json

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "image_bytes")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")
CACHE = Path("~/.cache/dinov3_ref/arrow")
ROWS_PER_BATCH = 256  # converted to Arrow together


class ImageTable(EncodedImages):
    """The images of one or several tables, in order.

    tables: paths, globs and `{00..17}` ranges. image, label: column names; common names are tried if None.
    cache: folder for Parquet files converted to Arrow (as large as the files), default
    ~/.cache/dinov3_ref/arrow.
    """

    def __init__(
        self,
        tables: str | Path | Sequence[str | Path],
        *,
        labelled: bool = False,
        image: str | None = None,
        label: str | None = None,
        cache: str | Path | None = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.transform = transform
        self.cache = Path(cache or CACHE).expanduser()
        self.paths = [self._as_arrow(path) for path in expand_paths(tables)]
        self._table: Any = None
        names = self._open().column_names
        self.image_column = _choose(names, image, IMAGE_COLUMNS, "image", self.paths[0])
        require_some(len(self), self.paths[0], "at least one row")
        if labelled:
            self._read_labels(_choose(names, label, LABEL_COLUMNS, "label", self.paths[0]))

    def __len__(self) -> int:
        return self._open().num_rows

    def __getstate__(self) -> dict[str, Any]:
        """Without the table: spawned workers map the files themselves instead of copying them."""
        return self.__dict__ | {"_table": None}

    def read(self, index: int) -> bytes:
        cell = self._open()[self.image_column][index].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise OSError(f"column {self.image_column!r} has no bytes")
        return data

    def name(self, index: int) -> str:
        return f"{self.paths[0]}: row {index}" if len(self.paths) == 1 else f"row {index} of {len(self)}"

    def _open(self) -> Any:
        if self._table is None:
            pa = _pyarrow()
            self._table = pa.concat_tables([_map(path) for path in self.paths])
        return self._table

    def _read_labels(self, column: str) -> None:
        values = self._open()[column].to_pylist()
        names = _huggingface_names(self._open().schema, column)
        if names and all(isinstance(value, int) and 0 <= value < len(names) for value in values):
            self.class_names, self.labels = names, np.array(values, dtype=np.int64)
        elif None in values:
            raise DataError(
                f"'{self.paths[0]}' has rows without {column!r}; remove them or name another column"
            )
        else:
            self.set_labels([str(value) for value in values])

    def _as_arrow(self, path: Path) -> Path:
        """The path, or for Parquet its converted copy in the cache, written if missing."""
        if path.suffix != ".parquet":
            return path
        status = path.stat()
        key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
        converted = self.cache / f"{path.stem}-{blake2b(key.encode(), digest_size=8).hexdigest()}.arrow"
        if not converted.is_file():
            _parquet_to_arrow(path, converted)
        return converted


def _map(path: Path) -> Any:
    """A memory-mapped table of an Arrow file or stream."""
    pa = _pyarrow()
    try:
        source = pa.memory_map(str(path))
        if source.read(6) == b"ARROW1":
            return pa.ipc.open_file(source).read_all()
        source.seek(0)
        return pa.ipc.open_stream(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"'{path}' cannot be read as Arrow: {' '.join(str(error).split())}") from error


def _parquet_to_arrow(path: Path, target: Path) -> None:
    """Convert; ranks that do so at the same time do not collide."""
    pa, pq = _pyarrow(), _pyarrow("parquet")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(target) as draft,
            pq.ParquetFile(path) as parquet,
            pa.ipc.new_file(str(draft), parquet.schema_arrow) as writer,
        ):
            for batch in parquet.iter_batches(ROWS_PER_BATCH):
                writer.write_batch(batch)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"'{path}' cannot be converted to '{target}': {' '.join(str(error).split())}"
        ) from error


def _pyarrow(module: str = "") -> Any:
    """Import pyarrow or a module of it, which other datasets do not need."""
    try:
        return importlib.import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ModuleNotFoundError as error:
        raise DataError(
            "tables need pyarrow, which is not installed; pip install 'dinodeploy[parquet]'"
        ) from error


def _choose(names: Sequence[str], wanted: str | None, usual: Sequence[str], what: str, path: Path) -> str:
    found = [name for name in ([wanted] if wanted else usual) if name in names]
    if not found:
        raise DataError(
            f"'{path}' has the columns {', '.join(names)}; wanted {wanted or ' or '.join(usual)}: "
            f"name the {what} column"
        )
    return found[0]


def _huggingface_names(schema: Any, column: str) -> tuple[str, ...]:
    """Class names in the metadata of a table that `datasets` wrote, or ()."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return ()
    found = parse_json(text, "the metadata of `datasets` in the table", "metadata", DataError)
    for key in ("info", "features", column, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    return tuple(map(str, found)) if isinstance(found, list) else ()
