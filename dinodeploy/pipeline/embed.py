"""Embed images into a store from start to end: open the source and the engine, plan, run, finish.

`dinodeploy.embed` describes the options. The run takes place in this process or on a Ray cluster.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dinodeploy.bundle.bundle import Bundle, locate
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.cluster import (
    Job,
    Share,
    connect,
    count_workers,
    make_shards,
    merge_reports,
)
from dinodeploy.pipeline.decode import default_decoders
from dinodeploy.pipeline.embed_options import EmbedOptions
from dinodeploy.pipeline.pipeline import RunReport, embed_source
from dinodeploy.pipeline.pooling import with_pooled
from dinodeploy.pipeline.probe import choose_batch, choose_hint, default_shard_size
from dinodeploy.pipeline.progress import Advance, Log, image_progress
from dinodeploy.pipeline.stages import Stages
from dinodeploy.sources import (
    FileSource,
    Source,
    Stamps,
    open_source,
    origins_of,
    skipped_of,
)
from dinodeploy.sources.counts import Counts, skipped_note
from dinodeploy.sources.folders import total_of
from dinodeploy.store.dtypes import parse_dtype
from dinodeploy.store.manifest import StoreManifest
from dinodeploy.store.plan import Plan, hash_listing
from dinodeploy.store.shard import count_finished
from dinodeploy.store.update import Changes
from dinodeploy.store.writer import Store


@dataclass(frozen=True)
class EmbedReport:
    """What a call of `dinodeploy.embed` found or made.

    out: the store, for `load_embeddings`. complete: False while other parts (`shards`) are missing.
    embedded: images with a row, in the whole store or, if it is not complete, in this process's part.
    quarantined: images without one; reasons are in OUT/quarantine.jsonl.
    kept: how many of both an earlier call had finished. fresh: how many this call processed.
    refused: how many images this call quarantined. changes: how the images differed from the store that was
    there, and which this call followed.
    seconds: of the whole call. rate: images embedded per second while the pipeline ran.
    engine: the file that ran, of a bundle on the hub with its commit.
    stages: where the time went. counts: what became of every file that this call has seen.
    """

    out: Path
    complete: bool
    embedded: int
    quarantined: int
    kept: int
    fresh: int
    seconds: float
    rate: float
    outputs: tuple[str, ...]
    format: str
    dtype: str
    normalize: bool
    batch: int
    stages: Stages
    counts: Counts
    refused: int = 0
    changes: Changes = Changes()  # noqa: RUF009 (frozen)
    generation: int | None = None
    engine: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values, as `embed --json` prints them."""
        return {
            "out": str(self.out),
            "engine": self.engine,
            "complete": self.complete,
            "embedded": self.embedded,
            "quarantined": self.quarantined,
            "kept": self.kept,
            "refused": self.refused,
            "changed": self.changes.changed,
            "new": self.changes.new,
            "missing": self.changes.missing,
            "generation": self.generation,
            "outputs": list(self.outputs),
            "format": self.format,
            "dtype": self.dtype,
            "normalize": self.normalize,
            "batch": self.batch,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.rate, 2),
            "stages": self.stages.report(),
            "counts": self.counts.as_json(),
        }


def embed_images(
    images: tuple[str, ...],
    engine: Path,
    options: EmbedOptions,
    *,
    progress: bool = False,
    log: Log = lambda text: None,
) -> EmbedReport:
    """Embed `images` with the bundle or engine file `engine`. Raises as `dinodeploy.embed`."""
    started = time.perf_counter()
    bundle, file = locate(engine, require_signature=options.require_signature)
    _check_outputs(bundle, options.outputs)
    with ExitStack() as opened:
        decoders = options.workers or options.threads or default_decoders()
        source = opened.enter_context(closing(open_source(images, options.source)))
        skipped = skipped_of(source)
        if skipped:
            log(f"[sources] {skipped_note(skipped)}")
        hint = choose_hint(len(source.ids) // options.part[1], options.engine_threads)
        engine_options = options.engine_options(hint)
        embedder = opened.enter_context(Embedder.open_located(bundle, file, **engine_options))
        log(f"[{options.device}] {embedder.choice}")
        steps = options.steps(embedder)
        plan = _plan(source, embedder, steps, options)
        stamps = Stamps(source, content=options.identify == "hash", threads=decoders)
        batch = _batch_choice(embedder, steps, options, log)
        if options.cluster is None:
            with Store(
                options.out,
                plan,
                part=options.part,
                overwrite=options.overwrite,
                stamps=stamps,
                follow=options.follow,
                choose_batch=batch,
            ) as store:
                make = partial(
                    embed_source,
                    embedder,
                    source,
                    store,
                    steps,
                    options.batch,
                    options.workers,
                    options.time_limit,
                    options.limits,
                    decode=options.decode,
                    log=log,
                )
                report = _run(store, options.batch, make, progress, log)
                manifest = store.finish()
        else:
            job = Job(
                folder=Path.cwd(),
                images=images,
                source_options=options.source,
                listed=source if isinstance(source, FileSource) else None,
                engine=engine if bundle.hub is None else Path(bundle.address(file)),
                out=options.out,
                plan=plan,
                preprocess=steps,
                batch=options.batch,
                decoders=decoders,
                time_limit=options.time_limit,
                limits=options.limits,
                identify=options.identify,
                engine_options={**engine_options, "require_signature": options.require_signature},
            )
            gpus = 0 if embedder.backend.device.startswith("cpu") else 1
            embedder.close()  # the workers open their own
            share = Share(options.engine_threads or 1, gpus)
            store, report, manifest = _run_on_cluster(job, share, options, stamps, batch, progress, log)
        made_by = embedder.engine.named
    seconds = time.perf_counter() - started
    return _report(options, store, report, manifest, made_by, seconds, total_of(skipped))


def _check_outputs(bundle: Bundle, outputs: tuple[str, ...]) -> None:
    """Raise MisuseError for outputs that the bundle lacks, before an engine is opened or images listed."""
    known = with_pooled(tuple(output.name for output in bundle.manifest.outputs))
    for name in outputs:
        if name not in known or outputs.count(name) > 1:
            raise MisuseError(
                f"outputs {','.join(outputs)!r}: {name!r} does not fit; wanted distinct names of "
                f"{', '.join(known)}"
            )
    if not outputs:
        raise MisuseError(f"outputs: got none; wanted at least one of {', '.join(known)}")


def _plan(source: Source, embedder: Embedder, steps: Preprocess, options: EmbedOptions) -> Plan:
    """What is to be made. Its batch size: as asked; else `Store` finds it, see `_batch_choice`."""
    return Plan(
        listing_sha256=hash_listing(source.ids, origins_of(source)),
        pictures=len(source.ids),
        shard_size=options.shard_size
        or default_shard_size(embedder.manifest.outputs, options.outputs, steps),
        outputs=options.outputs,
        format=options.format,
        dtype=parse_dtype(options.dtype),
        batch=options.batch or 1,
        fingerprint=embedder.engine.fingerprint(steps),
        normalize=options.unit_length,
        identity=options.identify,
    )


def _batch_choice(
    embedder: Embedder, steps: Preprocess, options: EmbedOptions, log: Log
) -> Callable[[int], int] | None:
    """Measures the batch size for so many images; None where it was given."""
    if options.batch is not None:
        return None
    return lambda images: choose_batch(embedder, images, steps, lambda text: log(f"[batch] {text}"))


def _run(
    store: Store, batch: int | None, make: Callable[[Advance], RunReport], progress: bool, log: Log
) -> RunReport:
    """Run the pipeline for what is missing; log what an earlier run finished."""
    kept = sum(record.images for record in store.kept)
    todo = sum(len(store.to_embed(index)) for index in store.remaining)
    if store.changes and store.remaining:
        log(f"[update] {store.changes}: {todo} images to embed")
    elif store.changes.unrecorded and not store.remaining:
        log("[note] the store does not tell sizes and times of its images; --update records them")
    elif kept and todo:
        log(f"[resume] {kept} images are embedded already, {todo} to go")
    if batch is not None and batch != store.plan.batch:
        log(f"[batch] began with {store.plan.batch}, continues with {batch}: last bits may differ")
    try:
        silent = nullcontext(lambda done, failed, bottleneck="": None)
        with image_progress(todo) if progress else silent as advance:
            return make(advance)
    except KeyboardInterrupt:
        if done := count_finished(store.out, store.plan):
            log(f"[resume] {done} of {store.plan.shards} shards are kept; the same command resumes")
        raise


def _run_on_cluster(
    job: Job,
    share: Share,
    options: EmbedOptions,
    stamps: Stamps,
    batch: Callable[[int], int] | None,
    progress: bool,
    log: Log,
) -> tuple[Store, RunReport, StoreManifest | None]:
    """Begin the store here, have workers make its shards, finish it here."""
    assert options.cluster is not None
    with connect(options.cluster) as ray:
        workers = count_workers(ray, share)
        options_of_store: dict[str, Any] = {"stamps": stamps, "follow": options.follow, "choose_batch": batch}
        with Store(job.out, job.plan, overwrite=options.overwrite, **options_of_store) as begun:
            shards = begun.remaining
        job = replace(job, plan=begun.plan)
        kept = sum(record.images for record in begun.kept)
        kept_quarantined = sum(len(record.quarantined) for record in begun.kept)
        started = time.perf_counter()

        def make(advance: Advance) -> RunReport:
            reports = make_shards(ray, job, shards, share, workers, advance)
            return merge_reports(reports, kept, kept_quarantined, time.perf_counter() - started)

        report = _run(begun, job.batch, make, progress, log)
    with Store(job.out, job.plan, **options_of_store) as store:
        return store, report, store.finish()


def _report(
    options: EmbedOptions,
    store: Store,
    run: RunReport,
    manifest: StoreManifest | None,
    engine: str,
    seconds: float,
    skipped: Counter[str],
) -> EmbedReport:
    images = manifest.count + manifest.quarantined if manifest else run.images
    fresh = run.embedded + run.quarantined
    embedded = manifest.count if manifest else run.images - run.all_quarantined
    quarantined = manifest.quarantined if manifest else run.all_quarantined
    index, of = (1, 1) if manifest else options.part
    seen = sum(len(store.plan.shard(shard)) for shard in range(index - 1, store.plan.shards, of))
    return EmbedReport(
        out=options.out,
        complete=manifest is not None,
        embedded=embedded,
        quarantined=quarantined,
        kept=images - fresh,
        fresh=fresh,
        seconds=seconds,
        rate=run.rate,
        outputs=store.plan.outputs,
        format=store.plan.format,
        dtype=store.plan.dtype,
        normalize=store.plan.normalize,
        batch=store.plan.batch,
        stages=run.stages,
        counts=Counts(
            seen=seen + skipped.total(),
            embedded=run.embedded,
            already=embedded - run.embedded,
            quarantined=quarantined,
            skipped=skipped,
        ),
        refused=run.quarantined,
        changes=store.changes,
        generation=manifest.generation if manifest else None,
        engine=engine,
    )
