"""`dinodeploy index`: embeddings become searchable."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from dinodeploy.cli.output import note, print_json, stages
from dinodeploy.errors import MisuseError
from dinodeploy.files import schema
from dinodeploy.search import Index, build_index
from dinodeploy.search.faiss_file import FaissFile, check_faiss_target, export_faiss
from dinodeploy.search.index_manifest import IndexManifest, index_path


def index(
    out: Annotated[Path, typer.Argument(help="What `embed` wrote.", metavar="OUT")],
    output: Annotated[str, typer.Option(help="Which output: cls, pooled, mean_patch. Default: cls.")] = "cls",
    metadata: Annotated[
        Path | None, typer.Option(help="CSV or Parquet with a column `id`: its others become filters.")
    ] = None,
    engine: Annotated[
        Path | None, typer.Option(help="The bundle that made them; then `search` need not be told.")
    ] = None,
    faiss: Annotated[
        Path | None,
        typer.Option(help="Also write a FAISS index; of an index that is there already, only that."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Index embeddings for `search`: a LanceDB table in OUT.index.

    Searches are exact below 100,000 rows and go through IVF-PQ from there on, whose recall is measured.
    """
    exported = None
    if faiss is not None:
        check_faiss_target(faiss)
    if faiss is not None and index_path(out).exists() and not overwrite:
        manifest, exported = _export(out, faiss, output, metadata)
    else:
        with stages() as say:
            manifest = build_index(
                out, output=output, metadata=metadata, engine=engine, overwrite=overwrite, say=say
            )
            if faiss is not None:
                say("writing FAISS's index")
                with Index.open(out) as opened:
                    exported = export_faiss(opened, faiss)
    _print(out, manifest, exported, as_json)


def _export(out: Path, faiss: Path, output: str, metadata: Path | None) -> tuple[IndexManifest, FaissFile]:
    """The FAISS file of the index that is there. Raises MisuseError where that is not the one asked for."""
    with Index.open(out) as opened:
        if opened.manifest.output != output or metadata is not None:
            raise MisuseError(f"{index_path(out)} is there already; pass --overwrite to index again")
        return opened.manifest, export_faiss(opened, faiss)


def _print(out: Path, manifest: IndexManifest, exported: FaissFile | None, as_json: bool) -> None:
    how, joined = manifest.approximate, manifest.metadata
    if as_json:
        facts: dict[str, Any] = schema.dump(manifest)
        for name in ("files", "version", "store_sha256"):
            del facts[name]
        print_json(
            {"index": str(index_path(out)), **facts, "faiss": schema.dump(exported) if exported else None}
        )
        return
    if joined:
        pictures = manifest.rows + manifest.left_out
        note(
            "metadata",
            f"{joined.matched} of {pictures} pictures have a row in {joined.file}; "
            f"{joined.unmatched} of its rows have no picture",
        )
        if joined.left_out:
            note("metadata", f"columns of kinds that filters do not know: {', '.join(joined.left_out)}")
    if manifest.left_out:
        note("index", f"{manifest.left_out} rows are zero: they have no direction and are left out")
    kind = "exact search"
    if how:
        kind = f"IVF-PQ, {how.nprobes} of {how.partitions} partitions a search, recall@10 {how.recall:.3f}"
    print(f"{index_path(out)}: {manifest.rows} rows of {manifest.dim} numbers ({manifest.output}), {kind}")
    if exported:
        measured = f", recall@10 {exported.recall:.3f}" if exported.kind != "IndexFlatIP" else ""
        print(f"{exported.path}: {exported.kind}, {exported.rows} rows{measured}; ids in {exported.ids}")
    told = "" if manifest.engine else " --engine BUNDLE"
    print(f"next: dinodeploy search {shlex.quote(str(out))} --image QUERY.jpg{told}")
