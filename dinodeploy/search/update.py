"""Update an index after its store has changed: rows are appended and deleted, nothing else is written again.

Every row of the store is compared with the table by a digest of its vector, size and metadata. Up to a tenth
of the rows is changed in a copy of the index, which replaces it at the end: a killed update leaves it as it
was. Large files of the copy are hard links, because Lance never changes a file that it has written. With
more changes, or other columns, the index is built anew. Either way a search finds what it finds in a new one.

Shapes: n rows of a batch, D dimension.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files import atomic
from dinodeploy.search import approximate
from dinodeploy.search.build import build_index, row_batches, vector_length
from dinodeploy.search.filters import text_literal
from dinodeploy.search.index_manifest import (
    FILE_NAME,
    OWN_COLUMNS,
    TABLE,
    VERSION,
    IndexManifest,
    index_path,
    read_any_state,
    store_hash,
    write_index_manifest,
)
from dinodeploy.search.metadata import Metadata, read_metadata
from dinodeploy.search.query import differences, recorded_address, require_same
from dinodeploy.search.table import (
    BLOCK,
    append_table,
    open_table,
    reading,
    require_lance,
    table_schema,
    to_numpy,
)
from dinodeploy.store.reader import StoredEmbeddings, open_embeddings

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema

REBUILD_ABOVE = 0.1  # share of rows; beyond, the index is built anew
_LINKED = 1 << 20  # bytes of a file from which on it is linked, not copied
_DELETED_TOGETHER = 5000  # ids of one deletion


@dataclass(frozen=True)
class IndexUpdate:
    """What an update did. rebuilt: why the index was built anew; empty if it was not."""

    manifest: IndexManifest
    added: int = 0
    replaced: int = 0
    removed: int = 0
    rebuilt: str = ""


def update_index(
    store: str | Path,
    *,
    output: str | None = None,
    metadata: str | Path | None = None,
    engine: str | Path | None = None,
    require_signature: Path | None = None,
    exact_below: int = approximate.EXACT_BELOW,
    log: Callable[[str], None] = lambda text: None,
) -> IndexUpdate:
    """Make the index of a store follow it; the same index as a new one would be, up to the order of its rows.

    output, metadata, engine: by default those of the index; its metadata file is read again.
    Raises MisuseError for an index of another model or another store, or with other options; else as
    `build_index` and `Index.open`.
    """
    require_lance()
    root = Path(store)
    options: dict[str, Any] = {
        "metadata": metadata,
        "engine": engine,
        "require_signature": require_signature,
        "exact_below": exact_below,
        "log": log,
    }
    if not (index_path(root) / FILE_NAME).is_file():
        made = build_index(root, output=output or "cls", **options)
        return IndexUpdate(made, added=made.rows, rebuilt="there was no index")
    old = read_any_state(root, verify=True)
    found = store_hash(root)  # before it is read: if it changes meanwhile, the index counts as outdated
    opened = open_embeddings(root)
    _check_same(root, old, opened, output)
    kept_engine = old.engine
    if engine is not None:
        bundle, _ = require_same(engine, old.fingerprint, require_signature)
        kept_engine = recorded_address(engine, bundle)
    if metadata is None and old.store_sha256 == found and kept_engine == old.engine:
        return IndexUpdate(old)
    if metadata is None and old.metadata is not None:
        options["metadata"] = metadata = Path(old.metadata.file)
        if not metadata.is_file():
            raise MisuseError(
                f"the index of {root} has columns of {metadata}, which is not there; give the table of the "
                "images that are there now: --metadata"
            )
        log(f"metadata of {metadata}, as before")
    options["recorded_engine"] = kept_engine
    table = read_metadata(Path(metadata)) if metadata is not None else None
    with reading(_failed(root)):
        changes = _compare(root, old, opened, table)
    why = _why_rebuild(old, changes, exact_below)
    if why:
        log(f"building the index anew: {why}")
        made = build_index(root, output=old.output, overwrite=True, **options)
        return IndexUpdate(made, changes.added, changes.replaced, len(changes.gone), why)
    log(f"{changes.added} rows to add, {changes.replaced} to replace, {len(changes.gone)} to remove")
    with atomic.atomic_directory(index_path(root)) as partial:
        _copy(index_path(root), partial, old)
        with reading(_failed(root)):
            manifest = _apply(partial, old, changes, exact_below, log)
        manifest = write_index_manifest(
            partial,
            replace(
                manifest,
                store_sha256=found,
                left_out=opened.manifest.count - manifest.rows,
                metadata=table.facts() if table else None,
                engine=kept_engine,
            ),
        )
    return IndexUpdate(manifest, changes.added, changes.replaced, len(changes.gone))


def _failed(root: Path) -> Callable[[str], BundleError]:
    return lambda reason: BundleError(
        f"the index of {root} cannot be updated: {reason}; index again: dinodeploy index {root} --overwrite"
    )


def _check_same(root: Path, old: IndexManifest, opened: StoredEmbeddings, output: str | None) -> None:
    again = f"index again: dinodeploy index {root} --overwrite"
    if shown := differences(old.fingerprint, opened.manifest.fingerprint):
        raise MisuseError(f"{root} was embedded again by another engine ({shown}); {again}")
    if output not in (None, old.output):
        raise MisuseError(f"the index of {root} is of output {old.output!r}, got {output!r}; {again}")
    if (dim := vector_length(opened, old.output)) != old.dim:
        raise MisuseError(
            f"output {old.output!r} of {root} has dimension {dim}, its index {old.dim}; {again}"
        )


@dataclass
class _Changes:
    """How the store differs from the table. batches: rows to append."""

    schema: Schema
    batches: list[RecordBatch]
    stale: list[str]  # ids whose row in the table is of an older image
    gone: list[str]  # ids that the store has no more
    added: int = 0
    beyond: bool = False  # more changes than are applied; `batches` is not complete
    same_columns: bool = True
    unique: bool = True
    in_common: int = 0

    @property
    def replaced(self) -> int:
        return len(self.stale)


def _compare(root: Path, old: IndexManifest, opened: StoredEmbeddings, metadata: Metadata | None) -> _Changes:
    """Compare every row of the store with the table of the index."""
    columns = {**OWN_COLUMNS, **(metadata.kinds if metadata else {})}
    schema = table_schema(columns, old.dim)
    changes = _Changes(schema, [], [], [], same_columns=columns == old.columns)
    if not changes.same_columns:
        return changes
    known = dict(_known(root, old, schema))
    changes.unique = len(known) == old.rows
    seen: set[str] = set()
    most = int(REBUILD_ABOVE * old.rows)
    for batch in row_batches(opened, old.output, metadata, schema):
        ids: list[str] = batch["id"].to_pylist()
        found = _digests(batch)
        fresh = [number for number, id_ in enumerate(ids) if known.get(id_) != found[number]]
        stale = [ids[number] for number in fresh if ids[number] in known]
        changes.unique = changes.unique and seen.isdisjoint(ids) and len(set(ids)) == len(ids)
        changes.in_common += sum(id_ in known for id_ in ids)
        seen.update(ids)
        changes.stale += stale
        changes.added += len(fresh) - len(stale)
        changes.beyond = changes.beyond or changes.added + changes.replaced > most
        if changes.beyond:
            changes.batches.clear()
        elif fresh:
            changes.batches.append(batch.take(fresh))
    changes.gone = [id_ for id_ in known if id_ not in seen]
    changes.beyond = changes.beyond or changes.added + changes.replaced + len(changes.gone) > most
    if not changes.in_common:
        raise MisuseError(
            f"{root} has no image of its index, which is of other embeddings; index again: "
            f"dinodeploy index {root} --overwrite"
        )
    if metadata:
        metadata.require_match()
    return changes


def _why_rebuild(old: IndexManifest, changes: _Changes, exact_below: int) -> str:
    """Why the changes cannot be applied to the table; empty if they can."""
    if not changes.same_columns:
        return "its metadata columns are others"
    if not changes.unique:
        return "ids appear more than once"
    if changes.beyond:
        return f"more than {REBUILD_ABOVE:.0%} of its rows changed"
    rows = old.rows + changes.added - len(changes.gone)
    if old.approximate is not None and rows < exact_below:
        return "it has become small enough for exact search"
    return ""


def _known(root: Path, old: IndexManifest, schema: Schema) -> Iterator[tuple[str, bytes]]:
    """(id, digest) of every row of the table."""
    table = open_table(index_path(root) / f"{TABLE}.lance", old.table_version)
    for batch in table.to_batches(columns=schema.names, batch_size=BLOCK):
        yield from zip(batch["id"].to_pylist(), _digests(batch), strict=True)


def _digests(batch: RecordBatch) -> list[bytes]:
    """One digest per row, over everything but the id."""
    vectors = np.ascontiguousarray(to_numpy(batch["vector"]))
    others = [batch[name].to_pylist() for name in batch.schema.names if name not in ("id", "vector")]
    return [
        hashlib.blake2b(vector.tobytes() + repr(cells).encode(), digest_size=16).digest()
        for vector, cells in zip(vectors, zip(*others, strict=True), strict=True)
    ]


def _copy(source: Path, target: Path, manifest: IndexManifest) -> None:
    """The listed files of an index, large ones as hard links where the file system has them."""
    for name, facts in manifest.files.items():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if facts.bytes >= _LINKED:
            try:
                os.link(source / name, copy, follow_symlinks=False)
                continue
            except (OSError, NotImplementedError):
                pass
        shutil.copy2(source / name, copy)


def _apply(
    partial: Path, old: IndexManifest, changes: _Changes, exact_below: int, log: Callable[[str], None]
) -> IndexManifest:
    """Delete and append rows of the table in `partial`."""
    path = partial / f"{TABLE}.lance"
    table = open_table(path, old.table_version)
    outdated = [*changes.stale, *changes.gone]
    for begin in range(0, len(outdated), _DELETED_TOGETHER):
        names = ", ".join(map(text_literal, outdated[begin : begin + _DELETED_TOGETHER]))
        table.delete(f"`id` IN ({names})")
    if changes.batches:
        table = append_table(path, changes.schema, changes.batches)
    rows = table.count_rows()
    wanted = old.rows + changes.added - len(changes.gone)
    if rows != wanted:
        raise ValueError(f"got {rows} rows, wanted {wanted}")
    how = old.approximate
    if rows >= exact_below and (changes.batches or outdated):
        how = approximate.follow(table, how, log)
    table = open_table(path)
    table.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    return replace(old, version=VERSION, rows=rows, approximate=how, table_version=table.version)
