"""Read a store of embeddings: whole, or shard by shard if it does not fit in memory.

    ids, vectors = load_embeddings("embeddings")
    for ids, column in open_embeddings("embeddings").shards("cls"): ...
    for ids, column, sizes in open_embeddings("embeddings").sized_shards("cls"): ...
    ids, column, sizes = open_embeddings("embeddings").shard(0, "cls")

Every file is checked against its hash before it is read.

Shapes: N rows of the store, n rows of a shard, h, w patch grid, D dimension.
"""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dinodeploy.arrays import FloatArray, IntArray
from dinodeploy.bundle.bundle import sha256_file
from dinodeploy.bundle.manifest import FileFacts
from dinodeploy.errors import BundleError, MisuseError, TamperedError, reason_of
from dinodeploy.files.lock import can_rename_open_files, lock
from dinodeploy.files.regular import READ
from dinodeploy.store.dtypes import stored_parts, unit_length, unpack
from dinodeploy.store.formats import Column, Format, open_format, split_rows
from dinodeploy.store.manifest import FILE_NAME, ColumnFacts, StoreManifest, read_manifest

_TRIES = 20  # to lock a manifest that is being replaced
_NO_SIZES: IntArray = np.zeros((0, 2), np.int32)

# What numpy, zipfile, pyarrow and Lance raise on a damaged file (ArrowInvalid is a ValueError).
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    RuntimeError,  # an encrypted or compressed member
    ArithmeticError,
    MemoryError,  # a header that promises more than there is
    SyntaxError,  # numpy reads headers as Python's literals
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


@dataclass(frozen=True)
class StoredEmbeddings:
    """An opened store: the manifest is read, the shards are not."""

    root: Path
    manifest: StoreManifest
    held: Held | None = field(default=None, repr=False, compare=False)

    def shards(self, output: str = "cls") -> Iterator[tuple[list[str], Column]]:
        """The ids and one output of every shard, one shard in memory at a time. Raises as `sized_shards`."""
        return ((ids, column) for ids, column, _ in self._shards(output, with_sizes=False))

    def sized_shards(self, output: str = "cls") -> Iterator[tuple[list[str], Column, IntArray]]:
        """As `shards`, with [n, 2]: width and height of the original images in pixels.

        Raises BundleError for an output that the store lacks, TamperedError for a file that was changed.
        """
        return self._shards(output, with_sizes=True)

    def shard(self, index: int, output: str = "cls") -> tuple[list[str], Column, IntArray]:
        """What `sized_shards` yields for `manifest.shards[index]`, which has rows. Raises as it does."""
        self.check_output(output)
        reader = open_format(self.manifest.format)
        ids, columns = read_shard(self.root, self.manifest, index, output, reader)
        sizes = read_sizes(self.root, self.manifest, index, reader)
        return ids, self._unpacked(index, columns), sizes

    def check_output(self, output: str) -> None:
        """Raise BundleError for an output that the store lacks."""
        if output not in self.manifest.outputs:
            known = ", ".join(self.manifest.outputs)
            raise BundleError(
                f"{self.root} has no output {output!r}, only {known}; embed again with --outputs {output}"
            )

    def _shards(self, output: str, *, with_sizes: bool) -> Iterator[tuple[list[str], Column, IntArray]]:
        self.check_output(output)
        count = 0
        for index, facts in enumerate(self.manifest.shards):
            if not facts.rows:  # all images quarantined: it has no file
                continue
            reader = open_format(self.manifest.format)
            ids, columns = read_shard(self.root, self.manifest, index, output, reader)
            count += len(ids)
            sizes = read_sizes(self.root, self.manifest, index, reader) if with_sizes else _NO_SIZES
            yield ids, self._unpacked(index, columns), sizes
        if count != self.manifest.count:
            wanted = self.manifest.count
            raise BundleError(f"{self.root / FILE_NAME}: got {count} rows in the shards, wanted {wanted}")

    def _unpacked(self, index: int, columns: list[Column]) -> Column:
        try:
            return unpack(*columns)
        except _DAMAGE as error:
            raise BundleError(f"{self.root}: shard {index} cannot be read: {reason_of(error)}") from error


def open_embeddings(path: str | Path) -> StoredEmbeddings:
    """The store at `path`. Raises BundleError for anything else.

    An update meanwhile keeps the files of this generation until the last reader is gone.
    """
    held = Held(Path(path))
    return StoredEmbeddings(Path(path), read_manifest(Path(path)), held)


class Held:
    """A shared lock on the embeddings.json of a store, for as long as this object lives.

    Windows replaces no open file, so there readers hold nothing.
    """

    def __init__(self, root: Path) -> None:
        self._descriptor: int | None = None
        path = root / FILE_NAME
        for _ in range(_TRIES if can_rename_open_files() else 0):
            if (descriptor := _open(path)) is None:
                return  # `read_manifest` says why
            with suppress(OSError):  # it is being replaced
                lock(descriptor, shared=True)
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    self._descriptor = descriptor
                    return
            os.close(descriptor)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]


def _open(path: Path) -> int | None:
    try:
        return os.open(path, READ)
    except OSError:
        return None


def load_embeddings(
    path: str | Path, output: str = "cls", *, normalize: bool | None = None
) -> tuple[list[str], FloatArray | list[FloatArray]]:
    """The ids of a store and one of its outputs, in the order of the listing.

    float32 [N, ...]; or a list of N arrays [h, w, D] if the patch grids of the images differ.
    normalize: True scales every vector (the last axis) to length 1, so that products are cosines; zeros stay
    zeros. False wants the lengths that the model gave. None takes what the store holds.
    Raises BundleError if `path` is no store or lacks the output, TamperedError for a file that was changed,
    MisuseError if lengths are wanted of a store made with `normalize`.
    """
    store = open_embeddings(path)
    if normalize is False and store.manifest.normalize:
        raise MisuseError(
            f"{path} holds vectors of length 1 (`embed --normalize`), got normalize=False; load them with "
            "normalize=None, or embed again without --normalize"
        )
    ids: list[str] = []
    columns: list[Column] = []
    for shard_ids, column in store.shards(output):
        ids += shard_ids
        columns.append(Column(unit_length(column.values)[0], column.grid) if normalize else column)
    shape = store.manifest.outputs[output].shape
    if shape is not None and None in shape:
        return ids, [row for column in columns for row in split_rows(column)]
    if not columns:
        return ids, np.zeros((0, *(side or 0 for side in shape or [0])), np.float32)
    return ids, np.concatenate([column.values for column in columns])


def read_shard(
    root: Path, manifest: StoreManifest, index: int, output: str, reader: Format | None = None
) -> tuple[list[str], list[Column]]:
    """The ids and the columns of one output of one shard, as stored (`dtypes.py`).

    Files are checked against their hashes, arrays against the manifest. Raises BundleError, and TamperedError
    for a file that was changed. reader: of the store's format; given twice, it parses metadata once.
    """
    facts, stored = manifest.shards[index], manifest.outputs[output]
    reader = reader or open_format(manifest.format)
    parts = stored_parts(output, stored.dtype)
    for name in dict.fromkeys(name for part in parts for name in reader.files(facts.number, part)):
        path = root / name
        if name not in facts.files:
            if path.exists():  # a foreign grid file would change what the rows mean
                raise TamperedError(f"{path} is not in {FILE_NAME}; embed again")
            continue
        check_file(path, facts.files[name])
    try:
        columns = [reader.read(root, facts.number, part) for part in parts]
        ids, column = columns[0]
        problem = _misfit(ids, column, facts.rows, stored)
    except _DAMAGE as error:
        raise BundleError(f"{root}: shard {facts.number} cannot be read: {reason_of(error)}") from error
    if problem:
        raise BundleError(f"{root}: shard {facts.number}, output {output!r}: {problem}")
    return ids, [column for _, column in columns]


def check_file(path: Path, facts: FileFacts) -> None:
    """Raise BundleError for a missing file of a store, TamperedError for a changed one."""
    if not path.is_file():
        raise BundleError(
            f"{path} is missing, {FILE_NAME} lists it; copy the directory whole or embed again with --update"
        )
    if (found := sha256_file(path)) != facts.sha256:
        raise TamperedError(
            f"{path} is not the file that was written: got sha256 {found[:12]}, "
            f"wanted {facts.sha256[:12]}; copy it again or embed again with --update"
        )


def read_sizes(root: Path, manifest: StoreManifest, index: int, reader: Format | None = None) -> IntArray:
    """[n, 2]: width and height of the images of a shard whose files `read_shard` has verified."""
    rows = manifest.shards[index].rows
    number = manifest.shards[index].number
    try:
        sizes = (reader or open_format(manifest.format)).sizes(root, number)
    except _DAMAGE as error:
        raise BundleError(f"{root}: shard {number} has no sizes: {reason_of(error)}") from error
    if sizes.shape != (rows, 2) or sizes.dtype != np.int32:
        got = f"{sizes.dtype} {list(sizes.shape)}"
        raise BundleError(f"{root}: shard {number}: got sizes of {got}, wanted int32 [{rows}, 2]")
    return sizes


def _misfit(ids: list[str], column: Column, rows: int, stored: ColumnFacts) -> str:
    """What is wrong with a shard's arrays as read from disk, or an empty string."""
    values, grid, shape = column.values, column.grid, stored.shape
    row_shape: list[int | None] = list(values.shape[1:])
    count = len(values)
    if grid is not None:
        row_shape, count = [None, None, *row_shape], len(grid)
        if grid.shape[1:] != (2,) or (grid < 1).any() or grid.prod(axis=1).sum() != len(values):
            return f"its grids do not add up to {len(values)} patches"
    if len(ids) != rows or count != rows:
        return f"got {len(ids)} ids and {count} rows, wanted {rows}"
    fits = shape is not None and len(shape) == len(row_shape)
    if values.dtype != stored.dtype or not fits or not all(map(_fits, row_shape, shape or [])):
        return f"got rows of {values.dtype} {row_shape}, wanted {stored.dtype} {shape}"
    return ""


def _fits(side: int | None, wanted: int | None) -> bool:
    return wanted is None or side == wanted
