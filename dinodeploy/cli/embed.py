"""`dinodeploy embed`: pictures become embeddings on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.cli.output import (
    DEVICE_HELP,
    REQUIRE_SIGNATURE_HELP,
    WEIGHT_BUDGET_HELP,
    Advance,
    note,
    parse_gib,
    parse_list,
    parse_size,
    picture_progress,
    print_json,
    stderr,
)
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import MAX_PATCHES, Preprocess
from dinodeploy.pipeline import (
    TIME_LIMIT,
    EmbedReport,
    choose_batch,
    choose_hint,
    default_decoders,
    default_shard_size,
    embed_source,
    needed,
    with_pooled,
)
from dinodeploy.pipeline.cluster import (
    Share,
    connect,
    count_workers,
    make_shards,
    merge_reports,
    parse_address,
)
from dinodeploy.pipeline.shard_worker import Job
from dinodeploy.sources import FileSource, SourceOptions, open_source, origins_of
from dinodeploy.store.dtypes import parse_dtype
from dinodeploy.store.existing import inspect_target
from dinodeploy.store.manifest import StoreManifest
from dinodeploy.store.plan import Plan, hash_listing, parse_part
from dinodeploy.store.shard_records import count_records
from dinodeploy.store.writer import Store

PARTIAL = 5


def embed(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, globs, lists, tables, archives, videos, URLs.", metavar="IMAGES..."
        ),
    ],
    engine: Annotated[Path, typer.Option(help="A bundle, or an engine file inside one.")],
    out: Annotated[Path, typer.Option(help="The directory to write, or to go on with.")] = Path("embeddings"),
    column: Annotated[
        str | None, typer.Option(help="Of a table: the column with pictures or paths. Default: by its name.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Of a table with pictures: the column with their ids.")
    ] = None,
    every: Annotated[int, typer.Option(help="Of a video: each n-th frame.")] = 1,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    imgsz: Annotated[str | None, typer.Option(help="Input size H or H,W. Default: the bundle's.")] = None,
    preprocess: Annotated[str | None, typer.Option(help="Another preset than the bundle's.")] = None,
    keep_aspect: Annotated[
        bool, typer.Option("--keep-aspect", help="Pictures keep their shape: short side to --imgsz.")
    ] = False,
    max_patches: Annotated[
        int | None, typer.Option(help=f"With --keep-aspect: larger pictures shrink to this. {MAX_PATCHES}.")
    ] = None,
    fast_jpeg: Annotated[
        bool, typer.Option("--fast-jpeg", help="Decode JPEGs 12 times too large at half their size.")
    ] = False,
    output_format: Annotated[
        str, typer.Option("--format", help="npy (clip-retrieval's layout), parquet, lance, npz, safetensors.")
    ] = "npy",
    outputs: Annotated[
        str, typer.Option(help="Outputs to keep: cls, storage, patch, layer_<i>, mean_patch, pooled.")
    ] = "cls",
    dtype: Annotated[str, typer.Option(help="How numbers lie in the files: fp32, fp16, int8.")] = "fp32",
    shard_size: Annotated[
        int | None, typer.Option(help="Pictures a file. Default: 10000, fewer where rows are large.")
    ] = None,
    shards: Annotated[
        str, typer.Option(help="i/n: this process does the i-th of n parts; any scheduler starts the others.")
    ] = "1/1",
    cluster: Annotated[
        str | None,
        typer.Option(help="Ray: local, auto or ray://HOST:10001; one worker for every --threads cores."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Pictures a run; auto measures a few.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Threads of the engine. Default: its own choice; 1 with --cluster.")
    ] = None,
    weight_budget: Annotated[float | None, typer.Option(help=WEIGHT_BUDGET_HELP)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Decoding threads. Default: one for every core.")
    ] = None,
    time_limit: Annotated[
        float, typer.Option(help="Seconds after which a picture that cannot be read is given up.")
    ] = TIME_LIMIT,
    require_signature: Annotated[
        Path | None, typer.Option(help=REQUIRE_SIGNATURE_HELP, metavar="KEY.pub")
    ] = None,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Use an engine that no receipt vouches for.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove embeddings that are there, and begin anew.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Embed pictures. The same command again goes on where it was stopped.

    Unreadable pictures are quarantined with their reason; then the exit code is 5.
    """
    _check_numbers(shard_size=shard_size, threads=threads, workers=workers, time_limit=time_limit)
    part, wanted_batch = parse_part(shards), _parse_batch(batch)
    stored_as = parse_dtype(dtype)
    address = _parse_cluster(cluster, part)
    if address is not None:
        threads = threads or 1
    known = tuple(output.name for output in open_bundle(engine).manifest.outputs)
    names = parse_list(outputs, "--outputs", with_pooled(known))
    engine_options: dict[str, Any] = {
        "device": device,
        "outputs": needed(names),
        "require_signature": require_signature,
        "allow_unverified": allow_unverified,
        "threads": threads,
        "weight_budget": parse_gib(weight_budget),
    }
    source_options = SourceOptions(column, id_column, every)
    started = time.perf_counter()
    with ExitStack() as opened:
        source = opened.enter_context(closing(open_source(images, source_options)))
        engine_options["hint"] = choose_hint(len(source.ids) // part[1], threads)
        embedder = opened.enter_context(Embedder.open(engine, **engine_options))
        note(device, embedder.choice)
        steps = _preprocess(embedder, preprocess, parse_size(imgsz), keep_aspect, max_patches)
        steps = replace(steps, jpeg="reduced" if fast_jpeg else "whole")
        plan = Plan(
            listing_sha256=hash_listing(source.ids, origins_of(source)),
            pictures=len(source.ids),
            shard_size=shard_size or default_shard_size(embedder.manifest.outputs, names, steps),
            outputs=names,
            format=output_format,
            dtype=stored_as,
            batch=wanted_batch or 1,
            fingerprint=embedder.engine.fingerprint(steps),
        )
        plan = _with_batch(plan, wanted_batch, out, overwrite, embedder, steps)
        if address is not None:
            job = Job(
                folder=Path.cwd(),
                images=tuple(images),
                source_options=source_options,
                listed=source if isinstance(source, FileSource) else None,
                engine=engine,
                out=out,
                plan=plan,
                preprocess=steps,
                batch=wanted_batch,
                decoders=workers or threads or default_decoders(),
                time_limit=time_limit,
                engine_options=engine_options,
            )
            share = Share(threads or 1, 0 if embedder.backend.device.startswith("cpu") else 1)
            embedder.close()  # the workers open their own
            store, report, manifest = _on_cluster(address, job, share, overwrite)
        else:
            with Store(out, plan, part=part, overwrite=overwrite) as store:
                run = partial(embed_source, embedder, source, store, steps, batch_size=wanted_batch)
                report = _run(
                    store,
                    wanted_batch,
                    lambda advance: run(workers=workers, time_limit=time_limit, advance=advance),
                )
                manifest = store.finish()
    _print(out, store, report, manifest, time.perf_counter() - started, as_json)


def _run(store: Store, batch: int | None, make: Callable[[Advance], EmbedReport]) -> EmbedReport:
    """Embed what is missing, with a word on what is not."""
    kept = sum(record.pictures for record in store.kept)
    todo = sum(len(store.plan.shard(index)) for index in store.remaining)
    if kept and todo:
        note("resume", f"{kept} images are embedded already, {todo} to go")
    if batch is not None and batch != store.plan.batch:
        note("batch", f"begun with {store.plan.batch}, goes on with {batch}: last bits may differ")
    try:
        with picture_progress(todo) as advance:
            return make(advance)
    except KeyboardInterrupt:
        if done := count_records(store.out):
            note("resume", f"{done} of {store.plan.shards} shards are kept; the same command goes on")
        raise


def _on_cluster(
    address: str, job: Job, share: Share, overwrite: bool
) -> tuple[Store, EmbedReport, StoreManifest | None]:
    """Begin the store here, have its shards made by workers, complete it here."""
    with connect(address) as ray:
        workers = count_workers(ray, share)
        with Store(job.out, job.plan, overwrite=overwrite) as begun:
            shards = begun.remaining
        kept = sum(record.pictures for record in begun.kept)
        kept_quarantined = sum(len(record.quarantined) for record in begun.kept)
        started = time.perf_counter()

        def make(advance: Advance) -> EmbedReport:
            reports = make_shards(ray, job, shards, share, workers, advance)
            return merge_reports(reports, kept, kept_quarantined, time.perf_counter() - started)

        report = _run(begun, job.batch, make)
    with Store(job.out, job.plan) as store:
        return store, report, store.finish()


def _print(
    out: Path,
    store: Store,
    report: EmbedReport,
    manifest: StoreManifest | None,
    seconds: float,
    as_json: bool,
) -> None:
    """What was done, and the exit code 5 if pictures were quarantined."""
    pictures = store.plan.pictures if manifest else report.pictures
    embedded = manifest.count if manifest else report.pictures - report.all_quarantined
    quarantined = manifest.quarantined if manifest else report.all_quarantined
    fresh = report.embedded + report.quarantined
    if as_json:
        print_json(
            {
                "out": str(out),
                "complete": manifest is not None,
                "embedded": embedded,
                "quarantined": quarantined,
                "kept": pictures - fresh,
                "outputs": list(store.plan.outputs),
                "format": store.plan.format,
                "dtype": store.plan.dtype,
                "batch": store.plan.batch,
                "seconds": round(seconds, 3),
                "images_per_second": round(report.rate, 2),
                "stages": report.stages.report(),
            }
        )
    elif fresh or not manifest:
        print(f"{out}: {embedded} images embedded, {report.rate:.1f}/s; {report.stages}")
    else:
        print(f"{out}: complete already, {embedded} images embedded; nothing to do")
    if not as_json:
        print(_next(out, manifest))
    if quarantined:
        where = f"{out}/quarantine.jsonl" if manifest else "quarantine.jsonl, once all parts are done"
        stderr().print(f"{quarantined} of {pictures} images quarantined; reasons in {where}")
        raise typer.Exit(PARTIAL)


def _next(out: Path, manifest: StoreManifest | None) -> str:
    if manifest is None:
        return "this part is done; the last part to end writes embeddings.json"
    return f"next, in Python: ids, vectors = dinodeploy.load_embeddings({str(out)!r})"


def _with_batch(
    plan: Plan, wanted: int | None, out: Path, overwrite: bool, embedder: Embedder, steps: Preprocess
) -> Plan:
    """The plan with its batch size: as asked, as begun, or as measured; nothing is measured for a refusal."""
    target = inspect_target(out.resolve(), plan, overwrite)
    if wanted is not None or target.complete:
        return plan
    if target.begun:
        return replace(plan, batch=target.begun.batch)
    size = (steps.height, steps.width)
    chosen = choose_batch(embedder, plan.pictures, size, lambda text: note("batch", text))
    return replace(plan, batch=chosen)


def _parse_batch(text: str) -> int | None:
    """`auto` -> None. Raises MisuseError."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise MisuseError(f"--batch is {text}; wanted auto, or a number of at least 1")
    return int(text)


def _parse_cluster(text: str | None, part: tuple[int, int]) -> str | None:
    """Raises MisuseError for an address that means nothing, or one beside --shards."""
    if text is not None and part != (1, 1):
        raise MisuseError("--cluster and --shards exclude each other: a cluster shares the shards out itself")
    return None if text is None else parse_address(text)


def _check_numbers(**options: Any) -> None:
    for name, value in options.items():
        least = 1 if isinstance(value, int) else 0
        if value is not None and not (value >= 1 if least else value > 0):
            what = "at least 1" if least else "more than 0"
            raise MisuseError(f"--{name.replace('_', '-')} is {value}; wanted {what}")


def _preprocess(
    embedder: Embedder,
    preset: str | None,
    size: tuple[int, int] | None,
    keep_aspect: bool,
    max_patches: int | None,
) -> Preprocess:
    """The bundle's preprocessing; another preset, size or number of patches where asked."""
    if keep_aspect and preset not in (None, "keep-aspect"):
        raise MisuseError(f"--keep-aspect and --preprocess {preset} exclude each other; give one of them")
    ours = embedder.preprocess
    preset = "keep-aspect" if keep_aspect else preset
    if preset is not None and preset != ours.preset:
        ours = Preprocess.from_preset(preset, size, ours.mean, ours.std, ours.patch_size)
    else:
        ours = embedder.preprocess_for(size)
    if max_patches is None:
        return ours
    if ours.steps.fit != "keep-aspect":
        raise MisuseError("--max-patches needs --keep-aspect: otherwise all pictures have one size")
    return replace(ours, max_patches=max_patches)
