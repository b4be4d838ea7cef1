"""Predict from start to end: open the source and the engine, plan, run, publish.

`dinodeploy.predict` describes the options. A `Predictor` says what outputs become.

Shapes: see the outputs of the head.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dinodeploy.arrays import FloatArray
from dinodeploy.backends import Hint
from dinodeploy.bundle.bundle import Bundle, locate
from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.files.json_file import parse_json
from dinodeploy.files.paths import PathLike, given_path
from dinodeploy.images.limits import DEFAULT_LIMITS, ImageLimits
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.images.windows import Windows
from dinodeploy.pipeline.decode import TIME_LIMIT
from dinodeploy.pipeline.pipeline import embed_source
from dinodeploy.pipeline.probe import choose_hint, limit_batch
from dinodeploy.pipeline.progress import Log, image_progress
from dinodeploy.pipeline.runner import BATCH_SIZE
from dinodeploy.sources import Source, SourceOptions, Stamps, open_source, origins_of, skipped_of
from dinodeploy.sources.counts import Counts, skipped_note
from dinodeploy.sources.folders import total_of
from dinodeploy.store.plan import Plan, hash_listing
from dinodeploy.store.shard import Quarantined
from dinodeploy.tasks import classify, depth, detect, panoptic, regress, segment
from dinodeploy.tasks.prediction import Prediction, PredictOptions
from dinodeploy.tasks.results.draw import Legend
from dinodeploy.tasks.results.files import OVERLAYS, PAGED, ImageWriter, ReadAgain, parse_save
from dinodeploy.tasks.results.finish import FORMATS, Finishing
from dinodeploy.tasks.results.rows import row_of
from dinodeploy.tasks.results.store import FORMAT, TABLE, PredictionStore, check_target
from dinodeploy.tasks.window_runner import WindowRunner

# task of a head -> outputs of one image, head, (width, height) of the original image, preprocessing, options
PREDICT_ONE: dict[str, Callable[..., Prediction]] = {
    "classify": classify.predict_one,
    "regress": regress.predict_one,
    "segment": segment.predict_one,
    "depth": depth.predict_one,
    "detect": detect.predict_one,
    "panoptic": panoptic.predict_one,
}
SHARD_BATCHES = 8  # of a shard: what a killed run loses at most


@dataclass(frozen=True)
class Predictor:
    """How the outputs of one image become its prediction.

    predict_one: outputs of one image, (width, height) of the original image -> its prediction.
    facts: what decides predictions beside the engine and the preprocessing, as plain JSON.
    windows: how images are cut, for a model that reads windows.
    preprocess: instead of the bundle's. runner: what makes `outputs` of pixels, instead of the engine alone.
    """

    task: str
    outputs: tuple[str, ...]
    classes: tuple[str, ...]
    predict_one: Callable[[Mapping[str, FloatArray], tuple[int, int]], Prediction]
    facts: dict[str, Any] = field(default_factory=dict)
    windows: Windows | None = None
    preprocess: Preprocess | None = None
    runner: Any = None  # a Runner


@dataclass(frozen=True)
class RunOptions:
    """Where images come from, where results go, and how the engine runs; see `dinodeploy.predict`."""

    out: Path | None = None
    format: str = "jsonl"
    save: tuple[str, ...] | None = None
    html: Path | None = None
    source: SourceOptions = SourceOptions()  # noqa: RUF009 (frozen)
    device: str = "auto"
    imgsz: int | tuple[int, int] | None = None
    batch: int = BATCH_SIZE
    threads: int | None = None
    time_limit: float = TIME_LIMIT
    limits: ImageLimits = DEFAULT_LIMITS
    require_signature: Path | None = None
    allow_unverified: bool = False
    overwrite: bool = False

    @classmethod
    def of(
        cls,
        *,
        out: PathLike | None = None,
        save: Sequence[str] | None = None,
        html: PathLike | None = None,
        column: str | None = None,
        id_column: str | None = None,
        every: int = 1,
        max_pixels: int | None = None,
        require_signature: PathLike | None = None,
        **more: Any,
    ) -> RunOptions:
        """From the arguments of the public calls; `more` are fields. Raises MisuseError."""
        return cls(
            out=given_path(out),
            save=None if save is None else tuple(save),
            html=given_path(html),
            source=SourceOptions(column, id_column, every),
            limits=ImageLimits.of(max_pixels),
            require_signature=given_path(require_signature),
            **more,
        )

    def __post_init__(self) -> None:
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise MisuseError(f"--{name} is {value!r}; wanted at least 1")
        if not self.time_limit > 0:
            raise MisuseError(f"--time-limit is {self.time_limit}; wanted more than 0 seconds")
        if self.format not in FORMATS:
            raise MisuseError(f"--format {self.format!r} is unknown; wanted {' or '.join(FORMATS)}")
        parse_save(self.save)
        writing = (("--format coco", self.format != "jsonl"), ("--save", self.save), ("--html", self.html))
        for option, given in writing:
            if given and self.out is None:
                raise MisuseError(f"{option} writes files; give a directory for them with --out")


@dataclass(frozen=True)
class PredictReport:
    """What a call of `dinodeploy.predict` found or made.

    out: the directory of the results; None: nothing was written. predicted: images with a row.
    quarantined: images without one, with their reasons. kept: how many of both an earlier call had finished.
    """

    task: str
    out: Path | None
    predicted: int
    quarantined: tuple[Quarantined, ...]
    kept: int
    seconds: float
    counts: Counts
    memory: tuple[dict[str, Any], ...] = ()

    @property
    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per image, in the order of the images: from memory, or read from `predictions.jsonl`."""
        if self.out is None:
            yield from self.memory
            return
        with (self.out / TABLE).open("rb") as file:
            for number, line in enumerate(file, 1):
                yield parse_json(line, f"{self.out / TABLE}, line {number}", "ids")

    def as_json(self) -> dict[str, Any]:
        """Plain values, as `predict --json` prints them."""
        return {
            "task": self.task,
            "out": str(self.out) if self.out else None,
            "predictions": list(self.rows),
            "quarantined": [asdict(one) for one in self.quarantined],
            "kept": self.kept,
            "counts": self.counts.as_json(),
        }


def head_of(bundle: Bundle) -> HeadFacts:
    """The head of a bundle. Raises MisuseError if it has no head, or the head predicts nothing."""
    head = bundle.manifest.head
    root = bundle.named
    if head is None:
        raise MisuseError(
            f"{root} has no head; train one: dinodeploy train-head --engine {root} --task classify --data …"
        )
    if head.task not in PREDICT_ONE:
        names = ",".join(head.outputs)
        raise MisuseError(
            f"{root} has a head that gives features ({names}), not predictions; store them: "
            f"dinodeploy embed IMAGES --engine {root} --outputs {names}"
        )
    return head


def predictor_of(head: HeadFacts, preprocess: Preprocess, options: PredictOptions) -> Predictor:
    """What the outputs of a head become. Raises MisuseError for options that it does not take."""
    if options.task is not None and head.task != "panoptic":
        raise MisuseError(f"--task {options.task}: this head does one task, {head.task}; leave --task out")
    whole = head.task in ("classify", "regress", "segment", "depth") and not head.multi_label
    if options.threshold is not None and whole:
        raise MisuseError(f"--threshold: a head of the task {head.task} finds no objects; leave it out")
    predict_one, task, windows = PREDICT_ONE[head.task], head.task, None
    if head.task == "panoptic":
        asked = panoptic.task_of(head, options)
        task = "segment" if asked == "semantic" else asked  # type: ignore[assignment]
        windows = panoptic.windows_of(head, preprocess, options)
    steps = windows or preprocess
    return Predictor(
        task,
        head.outputs,
        head.classes,
        lambda outputs, size: predict_one(outputs, head, size, steps, options),
        {"head_sha256": head.sha256, **asdict(options)},
        windows,
    )


def predict_images(
    images: tuple[str, ...],
    engine: Path,
    options: RunOptions,
    make_predictor: Callable[[Embedder, Preprocess], Predictor] | None = None,
    *,
    wanted: PredictOptions | None = None,
    each: Callable[[dict[str, Any]], None] = lambda row: None,
    progress: bool = False,
    log: Log = lambda text: None,
) -> PredictReport:
    """Predict `images` with a bundle. make_predictor: default: what the head of the bundle predicts.

    each: called with every row as its shard is done. Raises as `dinodeploy.predict`.
    """
    started = time.perf_counter()
    if options.out is not None:
        check_target(options.out, options.overwrite)
    bundle, file = locate(engine, require_signature=options.require_signature)
    with ExitStack() as opened:
        source = opened.enter_context(closing(open_source(images, options.source)))
        if skipped := skipped_of(source):
            log(f"[sources] {skipped_note(skipped)}")
        if make_predictor is None:
            make_predictor = partial(_predictor_of_head, head_of(bundle), wanted or PredictOptions())
        embedder = opened.enter_context(
            _open(bundle, file, options, choose_hint(len(source.ids), options.threads))
        )
        log(f"[{options.device}] {embedder.choice}")
        steps = embedder.preprocess_for(options.imgsz)
        predictor = make_predictor(embedder, steps)
        steps = predictor.preprocess or predictor.windows or steps
        report = _run(source, embedder, steps, predictor, options, each, progress, log)
    seen = len(source.ids) + total_of(skipped).total()
    predicted, quarantined, kept, kept_rows, memory = report
    counts = Counts(seen, predicted - kept_rows, kept_rows, len(quarantined), total_of(skipped))
    return PredictReport(
        predictor.task,
        options.out,
        predicted,
        tuple(quarantined),
        kept,
        time.perf_counter() - started,
        counts,
        memory,
    )


def _predictor_of_head(
    head: HeadFacts, options: PredictOptions, embedder: Embedder, steps: Preprocess
) -> Predictor:
    return predictor_of(head, steps, options)


def _open(bundle: Bundle, file: str | None, options: RunOptions, hint: Hint) -> Embedder:
    return Embedder.open_located(
        bundle,
        file,
        device=options.device,
        allow_unverified=options.allow_unverified,
        threads=options.threads,
        hint=hint,
    )


def _run(
    source: Source,
    embedder: Embedder,
    steps: Preprocess,
    predictor: Predictor,
    options: RunOptions,
    each: Callable[[dict[str, Any]], None],
    progress: bool,
    log: Log,
) -> tuple[int, list[Quarantined], int, int, tuple[dict[str, Any], ...]]:
    """Rows made, what has none, images and rows of an earlier run, rows in memory."""
    save = parse_save(options.save)
    overlays = options.out is not None and (save is None or OVERLAYS in save)
    finishing = Finishing(
        options.format, predictor.task, predictor.classes, source, overlays, options.html, options.out
    )
    finishing.check()
    again = ReadAgain(source)
    paged = PAGED if options.html is not None else 0
    writer = ImageWriter(again, Legend(predictor.classes), save, paged, options.limits)

    def make(
        position: int, id: str, outputs: Mapping[str, FloatArray], size: tuple[int, int], folder: Path | None
    ) -> dict[str, Any]:
        found = predictor.predict_one(outputs, size)
        names = writer.write(folder, position, id, found) if folder is not None else {}
        return {**row_of(id, size, found), **names}

    plan = _plan(source, embedder, steps, predictor, options)
    store = PredictionStore(options.out, plan, make, stamps=Stamps(source), overwrite=options.overwrite)
    store.each, store.gather = each, finishing.gather
    with store:
        kept = sum(shard.images for shard in store.kept)
        todo = sum(len(store.to_embed(index)) for index in store.remaining)
        if kept and todo:
            log(f"[resume] {kept} images are predicted already, {todo} to go")
        silent = nullcontext(lambda done, failed, bottleneck="": None)
        with image_progress(todo, doing="predicting") if progress else silent as advance:
            embed_source(
                _runner(embedder, predictor),
                again if options.out is not None else source,
                store,
                steps,
                time_limit=options.time_limit,
                limits=options.limits,
                advance=advance,
            )
        kept_rows = kept - sum(len(shard.quarantined) for shard in store.kept)
        predicted, quarantined = store.finish(finishing)
    return predicted, quarantined, kept, kept_rows, tuple(store.rows)


def _runner(embedder: Embedder, predictor: Predictor) -> Any:
    """What makes the outputs of a batch."""
    if predictor.windows is not None:
        return WindowRunner(embedder, predictor.windows)
    return predictor.runner or embedder


def _plan(
    source: Source, embedder: Embedder, steps: Preprocess, predictor: Predictor, options: RunOptions
) -> Plan:
    count = len(source.ids)
    batch = limit_batch(options.batch, count, embedder.backend.parallel_runs)
    results: dict[str, Any] = {
        "format": options.format,
        "save": sorted(options.save) if options.save is not None else None,
    }
    results["page"] = options.html is not None
    return Plan(
        listing_sha256=hash_listing(source.ids, origins_of(source)),
        pictures=count,
        shard_size=batch * (SHARD_BATCHES if options.out is not None else 1),
        outputs=predictor.outputs,
        format=FORMAT,
        dtype="float32",
        batch=batch,
        fingerprint={
            **embedder.engine.fingerprint(steps),
            "predict": parse_json(
                json.dumps({**predictor.facts, **results}), "facts of the predictor", "manifest"
            ),
        },
    )
