"""`dinodeploy index`: make embeddings searchable."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from dinodeploy.cli.options import RequireSignature
from dinodeploy.cli.output import note, print_json, say
from dinodeploy.errors import MisuseError
from dinodeploy.files import schema
from dinodeploy.pipeline.progress import step_progress
from dinodeploy.search import Index, IndexUpdate, build_index, update_index
from dinodeploy.search.faiss_file import FaissFile, check_faiss_target, export_faiss
from dinodeploy.search.index_manifest import IndexManifest, index_path


def index(
    out: Annotated[Path, Argument(help="Embeddings (from `dinodeploy embed`).", metavar="OUT")],
    output: Annotated[
        str | None, Option(help="Output to index: cls, pooled, mean_patch. Default: cls.", show_default=False)
    ] = None,
    metadata: Annotated[
        Path | None,
        Option(help="CSV, TSV, JSON lines or Parquet with a column `id`; filters can use its other columns."),
    ] = None,
    engine: Annotated[
        Path | None, Option(help="Bundle that made the embeddings; `search` then uses it by default.")
    ] = None,
    faiss: Annotated[
        Path | None,
        Option(help="Also write a FAISS index. If the index already exists, write only this file."),
    ] = None,
    require_signature: RequireSignature = None,
    update: Annotated[
        bool, Option("--update", help="Follow `embed --update`: add, replace and remove rows of the index.")
    ] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an existing index.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Index embeddings for `search`: a LanceDB table in OUT.index.

    Search is exact below 100,000 rows and uses IVF-PQ with measured recall from there on.
    """
    if update and overwrite:
        raise MisuseError("--update and --overwrite exclude each other; give one of them")
    exported, changes = None, None
    if faiss is not None:
        check_faiss_target(faiss)
    if faiss is not None and index_path(out).exists() and not (overwrite or update):
        manifest, exported = _export(out, faiss, output or "cls", metadata)
    else:
        options: dict[str, Any] = {
            "metadata": metadata,
            "engine": engine,
            "require_signature": require_signature,
        }
        with step_progress() as log:
            if update:
                changes = update_index(out, output=output, **options, log=log)
                manifest = changes.manifest
            else:
                manifest = build_index(out, output=output or "cls", **options, overwrite=overwrite, log=log)
            if faiss is not None:
                log("writing the FAISS index")
                with Index.open(out) as opened:
                    exported = export_faiss(opened, faiss)
    _print(out, manifest, exported, changes, as_json)


def _export(out: Path, faiss: Path, output: str, metadata: Path | None) -> tuple[IndexManifest, FaissFile]:
    """Write the FAISS file of the existing index. Raises MisuseError if that index has other options."""
    with Index.open(out, verify=True) as opened:
        if opened.manifest.output != output or metadata is not None:
            raise MisuseError(f"{index_path(out)} already exists; pass --overwrite to index again")
        return opened.manifest, export_faiss(opened, faiss)


def _print(
    out: Path,
    manifest: IndexManifest,
    exported: FaissFile | None,
    changes: IndexUpdate | None,
    as_json: bool,
) -> None:
    how, joined = manifest.approximate, manifest.metadata
    if as_json:
        facts: dict[str, Any] = schema.dump(manifest)
        for name in ("files", "version", "store_sha256", "table_version"):
            del facts[name]
        if changes is not None:
            facts["update"] = {
                name: getattr(changes, name) for name in ("added", "replaced", "removed", "rebuilt")
            }
        print_json(
            {"index": str(index_path(out)), **facts, "faiss": schema.dump(exported) if exported else None}
        )
        return
    if changes is not None:
        note("index", _words(changes))
    if joined:
        images = manifest.rows + manifest.left_out
        note(
            "metadata",
            f"{joined.matched} of {images} images have a row in {joined.file}; "
            f"{joined.unmatched} of its rows have no image",
        )
        for words in joined.notes:
            note("metadata", words)
        if joined.left_out:
            note("metadata", f"columns of kinds that filters do not support: {', '.join(joined.left_out)}")
    if manifest.left_out:
        note("index", f"{manifest.left_out} rows are zero vectors and are left out")
    kind = "exact search"
    if how:
        kind = f"IVF-PQ, {how.nprobes} of {how.partitions} partitions per search, recall@10 {how.recall:.3f}"
    say(f"{index_path(out)}: {manifest.rows} rows of dimension {manifest.dim} ({manifest.output}), {kind}")
    if exported:
        measured = f", recall@10 {exported.recall:.3f}" if exported.kind != "IndexFlatIP" else ""
        say(f"{exported.path}: {exported.kind}, {exported.rows} rows{measured}; ids in {exported.ids}")
    option = "" if manifest.engine else " --engine BUNDLE"
    say(f"next: dinodeploy search {shlex.quote(str(out))} --image QUERY.jpg{option}")


def _words(changes: IndexUpdate) -> str:
    if changes.rebuilt:
        return f"built anew: {changes.rebuilt}"
    if not (changes.added or changes.replaced or changes.removed):
        return "all rows are those of the embeddings"
    return f"{changes.added} rows added, {changes.replaced} replaced, {changes.removed} removed"
