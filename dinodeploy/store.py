"""The directory that `embed` writes and `load_embeddings` reads.

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
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from dinodeploy import atomic, schema
from dinodeploy.bundle import sha256_file
from dinodeploy.errors import BundleError, MisuseError, TamperedError
from dinodeploy.formats import Column, Format, Shard, open_format, split_rows, stack_rows
from dinodeploy.store_manifest import (
    FILE_NAME,
    QUARANTINE,
    VERSION,
    ColumnFacts,
    ShardFacts,
    StoreManifest,
    check_target,
    read_manifest,
)

Float = NDArray[np.float32]

# Outputs become column and folder names beside these.
_RESERVED = ("id", "ids", "size", "width", "height", "img")
_OUTPUT_NAME = re.compile(r"[a-z][a-z0-9_]*(?<!_grid)")

# What numpy, zipfile and pyarrow raise on a damaged file (ArrowInvalid is a ValueError).
_DAMAGE = (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile)


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


def load_embeddings(path: str | Path, output: str = "cls") -> tuple[list[str], Float | list[Float]]:
    """The ids of a store and one of its outputs, in the order they were written.

    float32 [N, ...]; or a list of N arrays [h, w, D] where the pictures' grids differ. Raises BundleError
    for what is no store or has no such output, TamperedError for a file that is not the one written.
    """
    root = Path(path)
    manifest = read_manifest(root)
    if output not in manifest.outputs:
        known = ", ".join(manifest.outputs)
        raise BundleError(
            f"{root} has no output {output!r}, only {known}; embed again with --outputs {output}"
        )
    shape = manifest.outputs[output].shape
    ids: list[str] = []
    columns: list[Column] = []
    for index in range(len(manifest.shards)):
        shard_ids, column = _read_shard(root, manifest, index, output)
        ids += shard_ids
        columns.append(column)
    if len(ids) != manifest.count:
        raise BundleError(f"{root / FILE_NAME}: got {len(ids)} rows in the shards, wanted {manifest.count}")
    if shape is not None and None in shape:
        return ids, [row for column in columns for row in split_rows(column)]
    if not columns:
        return ids, np.zeros((0, *(side or 0 for side in shape or [0])), np.float32)
    return ids, np.concatenate([column.values for column in columns])


def _read_shard(root: Path, manifest: StoreManifest, index: int, output: str) -> tuple[list[str], Column]:
    """One output of one shard: its files held against their hashes, its arrays against the manifest."""
    facts = manifest.shards[index]
    reader = open_format(manifest.format)
    for name in reader.files(index, output):
        path = root / name
        if name not in facts.files:
            if path.exists():  # a grid that was not written would change what the rows mean
                raise TamperedError(f"{path} is not in {FILE_NAME}; embed again")
            continue
        if not path.is_file():
            raise BundleError(
                f"{path} is missing, {FILE_NAME} lists it; copy the directory whole or embed again"
            )
        if (found := sha256_file(path)) != facts.files[name]:
            raise TamperedError(
                f"{path} is not the file that was written: got sha256 {found[:12]}, "
                f"wanted {facts.files[name][:12]}; copy it again or embed again"
            )
    try:
        ids, column = reader.read(root, index, output)
        problem = _misfit(ids, column, facts.rows, manifest.outputs[output].shape)
    except _DAMAGE as error:
        raise BundleError(f"{root}: shard {index} cannot be read: {' '.join(str(error).split())}") from error
    if problem:
        raise BundleError(f"{root}: shard {index}, output {output!r}: {problem}")
    return ids, column


def _misfit(ids: list[str], column: Column, rows: int, shape: list[int | None] | None) -> str:
    """What is wrong with a shard's arrays, or nothing."""
    values, grid = column.values, column.grid
    row_shape: list[int | None] = list(values.shape[1:])
    count = len(values)
    if grid is not None:
        row_shape, count = [None, None, *row_shape], len(grid)
        if grid.shape[1:] != (2,) or (grid < 1).any() or grid.prod(axis=1).sum() != len(values):
            return f"its grids do not add up to {len(values)} patches"
    if len(ids) != rows or count != rows:
        return f"got {len(ids)} ids and {count} rows, wanted {rows}"
    fits = shape is not None and len(shape) == len(row_shape)
    if values.dtype != np.float32 or not fits or not all(map(_fits, row_shape, shape or [])):
        return f"got rows of {values.dtype} {row_shape}, wanted float32 {shape}"
    return ""


def _fits(side: int | None, wanted: int | None) -> bool:
    return wanted is None or side == wanted


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
