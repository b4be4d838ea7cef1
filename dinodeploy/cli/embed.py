"""`dinodeploy embed`: images become embeddings on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dinodeploy.api import EmbedReport
from dinodeploy.api import embed as embed_images
from dinodeploy.cli.options import (
    Column,
    Device,
    Every,
    IdColumn,
    InputSize,
    MaxPixels,
    RequireSignature,
    TimeLimit,
)
from dinodeploy.cli.output import (
    WEIGHT_BUDGET_HELP,
    log,
    parse_gib,
    parse_list,
    parse_size,
    print_json,
    say,
)
from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import MAX_PATCHES
from dinodeploy.pipeline.decode import TIME_LIMIT
from dinodeploy.pipeline.decoders import parse_decode

PARTIAL = 5


def embed(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, globs, lists, tables, archives, videos, URLs.", metavar="IMAGES"
        ),
    ],
    engine: Annotated[
        Path, typer.Option(help="Bundle directory, an engine file inside one, or hf://ORG/NAME.")
    ],
    out: Annotated[Path, typer.Option(help="Directory to write, or to resume.")] = Path("embeddings"),
    column: Column = None,
    id_column: IdColumn = None,
    every: Every = 1,
    device: Device = "auto",
    imgsz: InputSize = None,
    preprocess: Annotated[
        str | None, typer.Option(help="Preprocessing preset. Default: the bundle's.")
    ] = None,
    keep_aspect: Annotated[
        bool, typer.Option("--keep-aspect", help="Keep the shape of images: short side to --imgsz.")
    ] = False,
    max_patches: Annotated[
        int | None,
        typer.Option(help=f"With --keep-aspect: shrink images to this many patches. Default: {MAX_PATCHES}."),
    ] = None,
    fast_jpeg: Annotated[
        bool, typer.Option("--fast-jpeg", help="Decode JPEGs 12 times too large at half their size.")
    ] = False,
    output_format: Annotated[
        str,
        typer.Option(
            "--format", help="npy, clip-retrieval (npy files, unit length), parquet, lance, npz, safetensors."
        ),
    ] = "npy",
    outputs: Annotated[
        str, typer.Option(help="Outputs to keep: cls, storage, patch, layer_<i>, mean_patch, pooled.")
    ] = "cls",
    dtype: Annotated[str, typer.Option(help="On-disk dtype: fp32, fp16 or int8.")] = "fp32",
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale vectors to unit length: dot products are cosines.")
    ] = False,
    shard_size: Annotated[
        int | None, typer.Option(help="Images per file. Default: 10000, fewer where rows are large.")
    ] = None,
    shards: Annotated[
        str, typer.Option(help="i/n: process the i-th of n parts; run the others in other processes.")
    ] = "1/1",
    cluster: Annotated[
        str | None,
        typer.Option(help="Ray cluster: local, auto or ray://HOST:10001. One worker per --threads cores."),
    ] = None,
    batch: Annotated[
        str, typer.Option(help='Images per batch. "auto" measures a few sizes and picks the fastest.')
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Threads of the engine. Default: its own choice; 1 with --cluster.")
    ] = None,
    weight_budget: Annotated[float | None, typer.Option(help=WEIGHT_BUDGET_HELP)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Decoding threads or processes. Default: one per core.")
    ] = None,
    decode: Annotated[
        str, typer.Option(help="Decode in threads or processes; auto: processes for large jobs.")
    ] = "auto",
    time_limit: TimeLimit = TIME_LIMIT,
    max_pixels: MaxPixels = None,
    require_signature: RequireSignature = None,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Run an engine without a passing receipt.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the embeddings at --out and start again.")
    ] = False,
    update: Annotated[
        bool,
        typer.Option("--update", help="Embed new and changed images, drop missing ones."),
    ] = False,
    keep_missing: Annotated[
        bool, typer.Option("--keep-missing", help="With --update: keep the rows of missing images.")
    ] = False,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="With --update: try unreadable images again.")
    ] = False,
    identify: Annotated[
        str, typer.Option(help="How changed images are noticed: stat (size and time) or hash (content).")
    ] = "stat",
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the hash of every file of an existing store.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 5 also for images quarantined by an earlier run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Embed images. After an interruption, the same command resumes.

    Images that cannot be read are quarantined with their reason; the exit code is then 5. Images that changed
    since the store was made are counted, exit code 2; --update follows them.
    """
    report = embed_images(
        images,
        engine=engine,
        out=out,
        outputs=parse_list(outputs, "--outputs"),
        column=column,
        id_column=id_column,
        every=every,
        device=device,
        imgsz=parse_size(imgsz),
        preprocess=preprocess,
        keep_aspect=keep_aspect,
        max_patches=max_patches,
        fast_jpeg=fast_jpeg,
        format=output_format,
        dtype=dtype,
        normalize=normalize,
        shard_size=shard_size,
        shards=shards,
        cluster=cluster,
        batch=_parse_batch(batch),
        threads=threads,
        weight_budget=parse_gib(weight_budget),
        workers=workers,
        decode=parse_decode(decode),
        time_limit=time_limit,
        max_pixels=max_pixels,
        require_signature=require_signature,
        allow_unverified=allow_unverified,
        overwrite=overwrite,
        update=update,
        keep_missing=keep_missing,
        retry_quarantined=retry_quarantined,
        identify=_parse_identify(identify),
        verify=verify,
        progress=True,
        log=log,
    )
    _print(report, as_json, strict)


def _print(report: EmbedReport, as_json: bool, strict: bool) -> None:
    """Print what was done; exit code 5 if this run, or with `strict` any run, quarantined images."""
    out = report.out
    if as_json:
        print_json(report.as_json())
    else:
        if report.changes and not report.fresh:
            say(f"{out}: {report.changes} followed, {report.embedded} images embedded")
        elif report.fresh or not report.complete:
            say(f"{out}: {report.embedded} images embedded, {report.rate:.1f}/s; {report.stages}")
        else:
            say(f"{out}: complete already, {report.embedded} images embedded; nothing to do")
        say(report.counts.line())
        if report.complete:
            say(f"next, in Python: ids, vectors = dinodeploy.load_embeddings({str(out)!r})")
        else:
            say("this part is done; the last part to finish writes embeddings.json")
    if report.quarantined:
        images = report.embedded + report.quarantined
        where = f"{out}/quarantine.jsonl" if report.complete else "quarantine.jsonl, once all parts are done"
        log(f"{report.quarantined} of {images} images quarantined; reasons in {where}")
        if report.refused or strict:
            raise typer.Exit(PARTIAL)


def _parse_identify(text: str) -> Literal["stat", "hash"]:
    """Raises MisuseError."""
    if text not in ("stat", "hash"):
        raise MisuseError(f"--identify is {text}; wanted stat or hash")
    return "hash" if text == "hash" else "stat"


def _parse_batch(text: str) -> int | Literal["auto"]:
    """Raises MisuseError."""
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise MisuseError(f"--batch is {text}; wanted auto, or a number of at least 1")
    return int(text)
