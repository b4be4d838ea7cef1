"""The directory that `embed` writes; `stored.py` reads it.

    OUT/embeddings.json     what it holds, every file with its sha256 (`StoreManifest`)
    OUT/quarantine.jsonl    {"id", "reason"} of each picture that could not be read, if there are any
    OUT/...                 the shards, in one of `dinodeploy.formats`

The directory appears when everything is in it, or not at all. One shard is in memory at a time. The same
rows give the same bytes.

Shapes: N rows of the store, n rows of a shard, h, w patch grid, D dimension.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from dinodeploy import atomic, schema
from dinodeploy.bundle import sha256_file
from dinodeploy.errors import MisuseError
from dinodeploy.formats import Format, Shard, open_format, stack_rows
from dinodeploy.store_manifest import (
    FILE_NAME,
    QUARANTINE,
    VERSION,
    ColumnFacts,
    ShardFacts,
    StoreManifest,
    check_target,
)

Float = NDArray[np.float32]

# Outputs become column and folder names beside these.
_RESERVED = ("id", "ids", "size", "width", "height", "img")
_OUTPUT_NAME = re.compile(r"[a-z][a-z0-9_]*(?<!_grid)")


class EmbeddingWriter:
    """Context manager that writes a store; see the module. The directory is there after the `with` block.

    Raises before any work is done: MisuseError for arguments that mean nothing, UnavailableError for a
    format that this machine lacks, OutputExistsError if something is in the way. `overwrite` replaces an
    older store and nothing else: a directory that holds any other file is left alone.
    """

    def __init__(
        self,
        out: Path,
        *,
        format: str,
        outputs: Sequence[str],
        shard_size: int,
        fingerprint: Mapping[str, Any],
        overwrite: bool = False,
    ) -> None:
        self.out = Path(out).resolve()  # a link is followed, not replaced
        self.outputs = tuple(outputs)
        self._format: Format = open_format(format)
        self._format_name = format
        self._shard_size = shard_size
        # through JSON and back: what cannot be written fails now, not after the last picture
        self._fingerprint = json.loads(json.dumps(dict(fingerprint), allow_nan=False))
        self._overwrite = overwrite
        _check_outputs(self.outputs)
        if shard_size < 1:
            raise MisuseError(f"shard size: got {shard_size}, wanted at least 1 row")
        self._format.require()
        check_target(self.out, overwrite)
        self._ids: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        self._rows: dict[str, list[Float]] = {output: [] for output in self.outputs}
        self._shapes: dict[str, list[int | None] | None] = dict.fromkeys(self.outputs)
        self._shards: list[ShardFacts] = []
        self._quarantined = 0
        self._quarantine: TextIO | None = None

    def __enter__(self) -> EmbeddingWriter:
        try:
            self._partial = atomic.begin_directory(self.out)
        except OSError as error:
            raise MisuseError(f"{self.out} cannot be made: {error.strerror}; choose another --out") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._quarantine is not None:
                self._quarantine.close()
            if kind is None:
                self._flush()
                self._write_manifest()
                check_target(self.out, self._overwrite)  # it may have appeared since
                atomic.commit_directory(self._partial, self.out)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def add(self, id: str, rows: Mapping[str, Float], size: tuple[int, int]) -> None:
        """One picture: a float32 array for each output, and its original width and height in pixels."""
        for output in self.outputs:
            row = np.array(rows[output])  # a copy: engines use their output buffers again
            self._shapes[output] = _merge_shape(self._shapes[output], row, output, id)
            self._rows[output].append(row)
        self._ids.append(id)
        self._sizes.append(size)
        if len(self._ids) == self._shard_size:
            self._flush()

    def quarantine(self, id: str, reason: str) -> None:
        """One picture that could not be read."""
        if self._quarantine is None:
            self._quarantine = (self._partial / QUARANTINE).open("w", encoding="utf-8")
        self._quarantine.write(json.dumps({"id": id, "reason": reason}) + "\n")
        self._quarantined += 1

    def _flush(self) -> None:
        """Write the rows in memory as one shard."""
        if not self._ids:
            return
        columns = {output: stack_rows(rows) for output, rows in self._rows.items()}
        shard = Shard(self._ids, np.array(self._sizes, np.int32), columns)
        names = self._format.write(self._partial, len(self._shards), shard)
        hashes = {name: sha256_file(self._partial / name) for name in names}
        self._shards.append(ShardFacts(len(self._ids), hashes))
        self._ids, self._sizes = [], []
        self._rows = {output: [] for output in self.outputs}

    def _write_manifest(self) -> None:
        manifest = StoreManifest(
            version=VERSION,
            format=self._format_name,
            outputs={output: ColumnFacts(shape) for output, shape in self._shapes.items()},
            count=sum(shard.rows for shard in self._shards),
            quarantined=self._quarantined,
            shards=self._shards,
            fingerprint=self._fingerprint,
        )
        text = json.dumps(schema.dump(manifest), indent=2) + "\n"
        (self._partial / FILE_NAME).write_text(text, encoding="utf-8")


def _merge_shape(known: list[int | None] | None, row: Float, output: str, id: str) -> list[int | None]:
    """The shape of all rows so far and this one; only the grid of [h, w, D] may differ."""
    if row.dtype != np.float32:
        raise MisuseError(f"output {output!r} of {id!r}: got {row.dtype}, wanted float32")
    if known is None:
        return list(row.shape)
    is_map = len(known) == row.ndim == 3
    if not (known == list(row.shape) or (is_map and known[2] == row.shape[2])):
        raise MisuseError(f"output {output!r} of {id!r}: got shape {list(row.shape)}, wanted {known}")
    return [side if side == seen else None for side, seen in zip(row.shape, known, strict=True)]


def _check_outputs(outputs: tuple[str, ...]) -> None:
    if not outputs or len(set(outputs)) < len(outputs):
        raise MisuseError(f"outputs: got {', '.join(outputs) or 'none'}, wanted at least one, each once")
    for output in outputs:
        if output in _RESERVED or not _OUTPUT_NAME.fullmatch(output):
            raise MisuseError(f"output {output!r} cannot name a column; wanted one like cls, patch, layer_3")
