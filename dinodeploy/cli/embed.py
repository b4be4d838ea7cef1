"""`dinodeploy embed`: pictures become embeddings on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from dinodeploy.cli.output import (
    DEVICE_HELP,
    WEIGHT_BUDGET_HELP,
    note,
    parse_gib,
    parse_list,
    parse_size,
    picture_progress,
    print_json,
    stderr,
)
from dinodeploy.embed import embed_listing
from dinodeploy.embedder import BATCH_SIZE, Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.listing import list_images
from dinodeploy.preprocess import Preprocess
from dinodeploy.store import EmbeddingWriter

PARTIAL = 5


def embed(
    images: Annotated[list[str], typer.Argument(help="Files, folders and globs.", metavar="IMAGES...")],
    engine: Annotated[Path, typer.Option(help="A bundle, or an engine file inside one.")],
    out: Annotated[Path, typer.Option(help="The directory to write.")] = Path("embeddings"),
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    imgsz: Annotated[str | None, typer.Option(help="Input size H or H,W. Default: the bundle's.")] = None,
    preprocess: Annotated[str | None, typer.Option(help="Another preset than the bundle's.")] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="npy (clip-retrieval's layout), parquet, npz, safetensors.")
    ] = "npy",
    outputs: Annotated[str, typer.Option(help="Outputs to keep: cls, storage, patch, layer_<i>.")] = "cls",
    shard_size: Annotated[int, typer.Option(help="Pictures a file.")] = 10_000,
    batch: Annotated[int, typer.Option(help="Pictures a run.")] = BATCH_SIZE,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the engine. Default: its own choice.")
    ] = None,
    weight_budget: Annotated[float | None, typer.Option(help=WEIGHT_BUDGET_HELP)] = None,
    workers: Annotated[int | None, typer.Option(help="Decoding threads. Default: one a core.")] = None,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Use an engine that no receipt vouches for.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace embeddings that are there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Embed pictures. Unreadable ones are quarantined with their reason; then the exit code is 5."""
    for option, value in (
        ("--shard-size", shard_size),
        ("--batch", batch),
        ("--threads", threads),
        ("--workers", workers),
    ):
        if value is not None and value < 1:
            raise MisuseError(f"{option} is {value}; wanted at least 1")
    ids = list_images(images)
    with Embedder.open(
        engine,
        device=device,
        allow_unverified=allow_unverified,
        threads=threads,
        weight_budget=parse_gib(weight_budget),
    ) as embedder:
        note(device, embedder.choice)
        names = parse_list(outputs, "--outputs", embedder.output_names)
        steps = _preprocess(embedder, preprocess, parse_size(imgsz))
        fingerprint = embedder.manifest.fingerprint(embedder.bundle.engine, steps)
        started = time.perf_counter()
        with (
            EmbeddingWriter(
                out,
                format=output_format,
                outputs=names,
                shard_size=shard_size,
                fingerprint=fingerprint,
                overwrite=overwrite,
            ) as writer,
            picture_progress(len(ids)) as advance,
        ):
            report = embed_listing(
                embedder, ids, writer, steps, batch_size=batch, decoders=workers, advance=advance
            )
    rate = report.embedded / max(report.seconds, 1e-9)
    if as_json:
        print_json(
            {
                "out": str(out),
                "embedded": report.embedded,
                "quarantined": report.quarantined,
                "outputs": list(names),
                "format": output_format,
                "seconds": round(time.perf_counter() - started, 3),
                "images_per_second": round(rate, 2),
            }
        )
    else:
        print(f"{out}: {report.embedded} images embedded, {rate:.1f}/s")
        print(f"next, in Python: ids, vectors = dinodeploy.load_embeddings({str(out)!r})")
    if report.quarantined:
        stderr().print(
            f"{report.quarantined} of {len(ids)} images quarantined; reasons in {out}/quarantine.jsonl"
        )
        raise typer.Exit(PARTIAL)


def _preprocess(embedder: Embedder, preset: str | None, size: tuple[int, int] | None) -> Preprocess:
    """The bundle's preprocessing; another preset or size where asked."""
    ours = embedder.preprocess
    if preset is not None and preset != ours.preset:
        return Preprocess.from_preset(preset, size, ours.mean, ours.std, ours.patch_size)
    return embedder.preprocess_for(size)
