"""Build an index: a LanceDB table of unit vectors, image sizes and the user's metadata.

One shard is in memory at a time. The index appears when it is complete, or not at all.

Shapes: n rows of a shard, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinodeploy.errors import BundleError, MisuseError, OutputExistsError
from dinodeploy.files import atomic
from dinodeploy.files.system_files import entries, is_free
from dinodeploy.search import approximate
from dinodeploy.search.index_manifest import (
    FILE_NAME,
    OWN_COLUMNS,
    TABLE,
    VERSION,
    IndexManifest,
    index_path,
    store_hash,
    write_index_manifest,
)
from dinodeploy.search.metadata import Metadata, read_metadata
from dinodeploy.search.query import recorded_address, require_same
from dinodeploy.search.table import require_lance, table_schema, write_table
from dinodeploy.store.dtypes import unit_length
from dinodeploy.store.formats.arrow import utf8
from dinodeploy.store.reader import StoredEmbeddings, open_embeddings

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema


def build_index(
    store: str | Path,
    *,
    output: str = "cls",
    metadata: str | Path | None = None,
    engine: str | Path | None = None,
    require_signature: Path | None = None,
    recorded_engine: str | None = None,
    overwrite: bool = False,
    exact_below: int = approximate.EXACT_BELOW,
    log: Callable[[str], None] = lambda text: None,
) -> IndexManifest:
    """Index a store: writes `store`.index beside it and returns its manifest.

    output: any output with one vector per image. metadata: a table with a column `id` (`metadata.py`).
    engine: the bundle that embeds query images, remembered so that a search need not name it.
    recorded_engine: the same as an earlier index remembered it; not checked. From `exact_below` rows on,
    searches are approximate.
    Raises BundleError if `store` is no store, TamperedError if it is damaged, MisuseError for an output or
    metadata file that cannot be indexed or an engine that did not make the store, OutputExistsError if there
    is an index and not `overwrite`, UnavailableError without Lance.
    """
    require_lance()
    root = Path(store)
    found = store_hash(root)  # before it is read: if it changes meanwhile, the index counts as outdated
    opened = open_embeddings(root)
    target = index_path(root)
    _check_target(target, overwrite)
    dim = vector_length(opened, output)
    if engine is not None:
        bundle, _ = require_same(engine, opened.manifest.fingerprint, require_signature)
        recorded_engine = recorded_address(engine, bundle)
    table = read_metadata(Path(metadata)) if metadata is not None else None
    with atomic.atomic_directory(target) as partial:
        log(f"indexing {opened.manifest.count} rows")
        columns = {**OWN_COLUMNS, **(table.kinds if table else {})}
        arrow = table_schema(columns, dim)
        written = write_table(partial / f"{TABLE}.lance", arrow, row_batches(opened, output, table, arrow))
        rows = written.count_rows()
        left_out = opened.manifest.count - rows
        if not rows:
            raise MisuseError(f"{root}: all {left_out} vectors are zero, so there is nothing to search")
        if table:
            table.require_match()
        how = None
        if rows >= exact_below:
            log(f"training IVF-PQ on {rows} rows")
            how = approximate.train(written)
        manifest = IndexManifest(
            version=VERSION,
            store_sha256=found,
            fingerprint=opened.manifest.fingerprint,
            output=output,
            dim=dim,
            rows=rows,
            left_out=left_out,
            columns=columns,
            metadata=table.facts() if table else None,
            approximate=how,
            engine=recorded_engine,
            table_version=written.version,
        )
        return write_index_manifest(partial, manifest)


def vector_length(store: StoredEmbeddings, output: str) -> int:
    """D of an output with one vector per image. Raises BundleError or MisuseError for any other output."""
    outputs = store.manifest.outputs
    if output not in outputs:
        raise BundleError(
            f"{store.root} has no output {output!r}, only {', '.join(outputs)}; choose one of them"
        )
    shape = outputs[output].shape
    if not store.manifest.count or shape is None:
        raise MisuseError(f"{store.root} has no embeddings: all its images were quarantined; embed others")
    if len(shape) != 1 or not shape[0]:
        raise MisuseError(
            f"output {output!r} has rows of shape {shape}, wanted one vector per image, such as cls or pooled"
        )
    return shape[0]


def _check_target(target: Path, overwrite: bool) -> None:
    """Raise OutputExistsError unless `target` is free or an index that may be overwritten."""
    if is_free(target):
        return
    ours = {FILE_NAME, f"{TABLE}.lance"}
    if not target.is_dir() or {path.name for path in entries(target)} != ours:
        raise OutputExistsError(f"{target} exists and is not a dinodeploy index; move it away")
    if not overwrite:
        raise OutputExistsError(f"{target} already exists; pass --overwrite to index again")


def row_batches(
    store: StoredEmbeddings, output: str, metadata: Metadata | None, arrow: Schema
) -> Iterator[RecordBatch]:
    """One record batch of unit vectors per shard; zero vectors are left out."""
    import pyarrow as pa

    for ids, column, sizes in store.sized_shards(output):
        vectors, good = unit_length(column.values)
        names = utf8(ids)
        arrays: dict[str, Any] = {
            "id": pa.array(names, pa.string()),
            "width": pa.array(sizes[:, 0]),
            "height": pa.array(sizes[:, 1]),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
            **(metadata.join(names) if metadata else {}),
        }
        batch = pa.record_batch([arrays[name] for name in arrow.names], schema=arrow)
        yield batch.filter(pa.array(good))
