"""Tables with a column of encoded pictures: Parquet, and Arrow as Hugging Face's `datasets` writes it.

    image   binary, or struct<bytes: binary, path: string>
    label   integer or string (optional); integers get names from Hugging Face's metadata, if it is there

Arrow files are mapped into memory and read in place. Parquet cannot be read by row, so it is turned into
Arrow once, in a cache folder. Needs pyarrow: the `parquet` extra.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from dinov3_ref.data.datasets.encoded import EncodedImages, require_some
from dinov3_ref.data.datasets.tar import expand_paths
from dinov3_ref.errors import DataError

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "image_bytes")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")
CACHE = Path("~/.cache/dinov3_ref/arrow")
PICTURES_A_BATCH = 256  # rows turned into Arrow at once


class ImageTable(EncodedImages):
    """The pictures of one or many tables, in their order.

    tables: paths, globs and `{00..17}` ranges. image, label: the columns; found by name if None.
    cache: where Parquet is kept as Arrow, ~/.cache/dinov3_ref/arrow if None; as large as the file.
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
        """Without the table: a spawned worker maps the files itself instead of copying them."""
        return self.__dict__ | {"_table": None}

    def read(self, index: int) -> bytes:
        cell = self._open()[self.image_column][index].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise OSError(f"column {self.image_column!r} holds no bytes")
        return data

    def name(self, index: int) -> str:
        return f"{self.paths[0]}: row {index}" if len(self.paths) == 1 else f"row {index} of {len(self)}"

    def _open(self) -> Any:
        if self._table is None:
            import pyarrow as pa

            self._table = pa.concat_tables([_map(path) for path in self.paths])
        return self._table

    def _read_labels(self, column: str) -> None:
        values = self._open()[column].to_pylist()
        names = _huggingface_names(self._open().schema, column)
        if names and all(isinstance(value, int) and 0 <= value < len(names) for value in values):
            self.class_names, self.labels = names, np.array(values, dtype=np.int64)
        elif None in values:
            raise DataError(
                f"'{self.paths[0]}' has rows without {column!r}; drop them or name another column"
            )
        else:
            self.set_labels([str(value) for value in values])

    def _as_arrow(self, path: Path) -> Path:
        """The path itself, or of Parquet its Arrow twin in the cache, made if it is not there."""
        if path.suffix != ".parquet":
            return path
        status = path.stat()
        key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
        twin = self.cache / f"{path.stem}-{blake2b(key.encode(), digest_size=8).hexdigest()}.arrow"
        if not twin.is_file():
            _parquet_to_arrow(path, twin)
        return twin


def _map(path: Path) -> Any:
    """An Arrow file or stream as a table over mapped memory."""
    import pyarrow as pa

    try:
        source = pa.memory_map(str(path))
        if source.read(6) == b"ARROW1":
            return pa.ipc.open_file(source).read_all()
        source.seek(0)
        return pa.ipc.open_stream(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"'{path}' cannot be read as Arrow: {' '.join(str(error).split())}") from error


def _parquet_to_arrow(path: Path, twin: Path) -> None:
    """Written under a name of its own first, so that ranks which start together do not meet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = twin.with_suffix(f".{os.getpid()}.part")
    try:
        twin.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetFile(path) as parquet, pa.ipc.new_file(str(part), parquet.schema_arrow) as writer:
            for batch in parquet.iter_batches(PICTURES_A_BATCH):
                writer.write_batch(batch)
        part.replace(twin)
    except (pa.ArrowException, OSError) as error:
        part.unlink(missing_ok=True)
        raise DataError(f"'{path}' cannot be turned into '{twin}': {' '.join(str(error).split())}") from error


def _choose(names: Sequence[str], wanted: str | None, usual: Sequence[str], what: str, path: Path) -> str:
    found = [name for name in ([wanted] if wanted else usual) if name in names]
    if not found:
        raise DataError(
            f"'{path}' has columns {', '.join(names)}; none is {wanted or ' or '.join(usual)}: "
            f"name the {what} column"
        )
    return found[0]


def _huggingface_names(schema: Any, column: str) -> tuple[str, ...]:
    """Class names that `datasets` keeps in a table's metadata, or nothing."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return ()
    feature = json.loads(text).get("info", {}).get("features", {}).get(column, {})
    return tuple(feature.get("names", ()))
