"""`dinodeploy.export`, `embed` and `predict`: the calls behind the commands of the same names.

    bundle = dinodeploy.export("model.safetensors", out="bundle")
    report = dinodeploy.embed(["photos/"], engine="bundle", out="embeddings")
    ids, vectors = dinodeploy.load_embeddings("embeddings")
    report = dinodeploy.predict(["photos/"], engine="bundle-with-head", out="predictions")
    folder = dinodeploy.export_transformers("model.safetensors", out="folder")  # for transformers.js, optimum

Every option of a command is a keyword of the same name here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dinodeploy.bundle.bundle import Bundle
from dinodeploy.bundle.layout import TransformersFolder
from dinodeploy.errors import MisuseError
from dinodeploy.files.paths import PathLike, given_path, given_paths
from dinodeploy.hardware.packages import reach
from dinodeploy.images.limits import ImageLimits
from dinodeploy.pipeline.decode import TIME_LIMIT
from dinodeploy.pipeline.decoders import Decode
from dinodeploy.pipeline.embed import EmbedReport, embed_images
from dinodeploy.pipeline.embed_options import EmbedOptions
from dinodeploy.pipeline.progress import step_progress
from dinodeploy.pipeline.runner import BATCH_SIZE
from dinodeploy.sources import SourceOptions
from dinodeploy.store.plan import parse_part
from dinodeploy.store.update import Follow

if TYPE_CHECKING:
    from dinodeploy.tasks.predict import PredictReport

__all__ = ["EmbedReport", "embed", "export", "export_transformers", "predict"]

HUB = "hub"
# Options of `export` that `export_transformers` takes.
FOLDER_OPTIONS = frozenset({
    "arch", "calibration", "calibration_images", "calibration_seed", "override", "imgsz", "preprocess",
    "dataset", "rope_periods", "weights_key", "adapter", "dialect", "fold", "seed", "revision", "offline",
})  # fmt: skip

Size = int | tuple[int, int]  # H, or (H, W), in pixels
Log = Callable[[str], None]


def export(
    weights: PathLike = HUB,
    out: PathLike | None = None,
    *,
    arch: str | None = None,
    precision: str = "fp32",
    calibration: PathLike | None = None,
    calibration_images: int = 128,
    calibration_seed: int = 0,
    override: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    imgsz: Size | None = None,
    preprocess: str | None = None,
    input: str = "float32",
    layers: Sequence[int] = (),
    head: str | None = None,
    classes: PathLike | Sequence[str] = (),
    pooling: str | None = None,
    attention: bool = False,
    dataset: str | None = None,
    rope_periods: str | None = None,
    weights_key: str | None = None,
    adapter: PathLike | None = None,
    vocab: PathLike | None = None,
    backbone_outputs: bool = False,
    module: Any = None,
    outputs: Sequence[str] = (),
    dynamic: Sequence[str] | None = None,
    task: str | None = None,
    head_precision: str = "fp32",
    dialect: str = "portable",
    fold: str | Sequence[str] = "all",
    seed: int = 0,
    revision: str | None = None,
    offline: bool = False,
    target: str | None = None,
    no_engine: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Bundle:
    """Turn a checkpoint into an ONNX bundle, judged on this machine against the fp32 reference. Needs torch.

    weights: a checkpoint file or directory, "hub", or "random" for trying things; the last two need arch.
    out: the bundle to write; default: ARCH-PRECISION. arch: vit_small, vit_large …, or a hub name.
    precision: fp32, fp16, bf16, int8 or fp8. calibration: images for int8 and fp8, by default six photographs
        of the package; calibration_images: at most so many of them; calibration_seed: which, where there are
        more.
    override: other types for layers by name, {"blocks.0.*": "fp32"}; the last match counts.
    imgsz: input size in pixels; preprocess: official (the default), hf, timm, eval or keep-aspect.
    input: of the graph: float32, normalised pixels [B,3,H,W], or uint8, bytes [B,H,W,3], which it normalises.
    layers: blocks whose patch maps become outputs. head: a head file, pyramid:3,5,7,11, or "none"; by default
        the head of a fine-tuned model, if the weights hold one. classes: names of its classes, or a text file
        with one a line; by default those of config.json. pooling: what its classifier reads, cls, mean or
        cls_mean, where the file does not tell. attention: output what CLS attends to in the last block.
    dataset: lvd1689m or sat493m, where the weights do not say. rope_periods: bf16 (as released) or fp32, for
        layouts without them; by default fp32 for a model that was fine-tuned in transformers or timm.
    dialect, fold ("all", "none" or names): how the graph is written.
    adapter: folder of a PEFT adapter (LoRA, DoRA) to merge into the weights.
    vocab: vocabulary file of dino.txt (bpe_simple_vocab_16e6.txt.gz): the bundle gets a text graph. head is
        then the vision head and text encoder; without it, weights holds them too. backbone_outputs: keep cls,
        storage and patch of the backbone beside image_embedding and patch_embedding.
    module: in place of weights, a torch module with DINOv3 inside, or "package.file:factory", which is run.
        outputs: names of what it returns; dynamic: which of batch, height and width are free (default: all
        that can be); task: for predict. head_precision: fp32 or fp16, of its layers outside the backbone.
    weights_key: which model, where the file holds several: its dotted name, such as "state_dict"; by default
        the moving average (EMA) if one exists. seed: of random weights. revision, offline: of the hub.
    target: also build a TensorRT engine: tensorrt, rtx or auto; by default if TensorRT and a GPU are here,
        unless no_engine. overwrite: replace a bundle at `out`. progress: show the steps on stderr.

    Returns the bundle with the judge's `receipt` and `notes` on what was assumed. Raises MisuseError for
    options that do not fit, OutputExistsError, ExportError, JudgementError when the graph is not the model
    (nothing is left then), and UnavailableError when torch is not installed.
    """
    exporter = reach("exporters.bundle.export", "export")
    options = exporter.ExportOptions(
        recipe=precision,
        dialect=dialect,
        preset=preprocess,
        imgsz=(imgsz, imgsz) if isinstance(imgsz, int) else imgsz,
        layers=tuple(layers),
        attention=attention,
        folds=_folds(fold, exporter.FOLDS),
        calibration=exporter.Calibration(given_path(calibration), calibration_images, calibration_seed),
        overrides=tuple(override.items() if isinstance(override, Mapping) else override),
        backbone_outputs=backbone_outputs,
        overwrite=overwrite,
        head_precision=head_precision,
        input=input,
    )
    _check_before_export(rope_periods, target, no_engine)
    with_engine = reach("exporters.tensorrt.after_export", "export").with_engine
    of_backbone: dict[str, Any] = {"arch": arch, "layers": layers, "head": head, "attention": attention}
    of_backbone |= {"adapter": adapter, "classes": classes, "pooling": pooling}
    of_module = {"module": module, "outputs": outputs, "dynamic": dynamic, "task": task, "dataset": dataset}
    with step_progress() if progress else nullcontext(_silent) as log:
        export_whole = reach("exporters.modules.source", "export").export_whole
        of_whole = {**of_module, "others": of_backbone, "log": log}
        whole = vocab is None and export_whole(os.fspath(weights), given_path(out), options, **of_whole)
    if whole:
        return with_engine(*whole, target, no_engine=no_engine, progress=progress)
    with step_progress() if progress else nullcontext(_silent) as log:
        log(f"loading {os.fspath(weights)}")
        hub = {"revision": revision, "offline": offline or None}
        how: dict[str, Any] = {"periods": rope_periods, "weights_key": weights_key, "adapter": adapter}
        source = (os.fspath(weights), arch, dataset, seed, hub)
        if vocab is not None:
            load_source = reach("exporters.text.source", "export").load_source
            checkpoint, origin, text = load_source(*source, head=head, vocab=Path(vocab), **how)
            chosen = None
        else:
            load = reach("exporters.bundle.source", "export").load_source
            (checkpoint, origin), text = load(*source, **how), None
            choose_head = reach("exporters.heads", "export").choose_head
            checkpoint, chosen = choose_head(checkpoint, head, pooling=pooling, classes=classes)
        facts = {"weights": origin, "weights_key": weights_key, "dataset": dataset, "log": log}
        facts |= {"head": chosen, "text": text, "rope_periods": rope_periods or checkpoint.periods}
        place = Path(out or f"{checkpoint.arch}-{precision}")
        bundle, notes = exporter.export_checkpoint(checkpoint, place, options, **facts)
    return with_engine(bundle, notes, target, no_engine=no_engine, progress=progress)


def export_transformers(
    weights: PathLike = HUB,
    out: PathLike | None = None,
    *,
    precision: str | Sequence[str] = "fp32",
    overwrite: bool = False,
    progress: bool = False,
    **options: Any,
) -> TransformersFolder:
    """Export a backbone as a folder for transformers.js, optimum and ONNX Runtime. Needs torch.

    weights: as in `export`. out: the folder to write; default: ARCH-transformers. precision: one or several
        of fp32, fp16 and int8, a graph each. overwrite: replace such a folder at `out`.
    options: as in `export`: arch, calibration, calibration_images, calibration_seed, override, imgsz,
        preprocess, dataset, rope_periods, weights_key, adapter, dialect, fold, seed, revision, offline.

    Returns the folder with what the judge measured on each graph. Raises MisuseError for models and
    preprocessing that transformers cannot express, else as `export`.
    """
    if wrong := sorted(set(options) - FOLDER_OPTIONS):
        raise MisuseError(f"{wrong[0]} does not fit the layout transformers, which holds a backbone alone")
    precisions = (precision,) if isinstance(precision, str) else tuple(precision)
    export_folder = reach("exporters.layouts.transformers", "export").export_folder

    def export_one(place: Path, name: str) -> Bundle:
        low = {key: value for key, value in options.items() if key != "override" or name != "fp32"}
        return export(weights, place, precision=name, head="none", no_engine=True, **low)

    with step_progress() if progress else nullcontext(_silent) as log:
        target = given_path(out)
        return export_folder(
            os.fspath(weights), target, precisions, options, export_one, overwrite=overwrite, log=log
        )


def embed(
    images: PathLike | Iterable[PathLike],
    *,
    engine: PathLike,
    out: PathLike = "embeddings",
    outputs: str | Sequence[str] = ("cls",),
    column: str | None = None,
    id_column: str | None = None,
    every: int = 1,
    device: str = "auto",
    imgsz: Size | None = None,
    preprocess: str | None = None,
    keep_aspect: bool = False,
    max_patches: int | None = None,
    fast_jpeg: bool = False,
    format: str = "npy",
    dtype: str = "fp32",
    normalize: bool = False,
    shard_size: int | None = None,
    shards: str | tuple[int, int] = (1, 1),
    cluster: str | None = None,
    batch: int | Literal["auto"] = "auto",
    threads: int | None = None,
    weight_budget: int | None = None,
    workers: int | None = None,
    decode: Decode = "auto",
    time_limit: float = TIME_LIMIT,
    max_pixels: int | None = None,
    require_signature: PathLike | None = None,
    allow_unverified: bool = False,
    overwrite: bool = False,
    update: bool = False,
    keep_missing: bool = False,
    retry_quarantined: bool = False,
    identify: Literal["stat", "hash"] = "stat",
    verify: bool = False,
    progress: bool = False,
    log: Log = lambda text: None,
) -> EmbedReport:
    """Embed images into a store on disk, which `load_embeddings` reads. The same call again resumes.

    images: files, folders, globs, lists, tables, archives, videos, URLs (`dinodeploy/sources`). For images in
        memory use `Embedder.encode`.
    engine: a bundle, an engine file inside one, or hf://ORG/NAME. out: the store to write or to resume.
    outputs: what to keep: cls [D], storage [R,D], patch and layer_<i> [h,w,D], mean_patch [D], pooled [2D].
    column, id_column: of a table: where images or paths, and ids, are. every: of a video: each n-th frame.
    device, threads, weight_budget (bytes), require_signature, allow_unverified: as in `Embedder.open`.
    imgsz: input size in pixels; preprocess: another preset than the bundle's; keep_aspect: images keep their
        shape, the short side becomes imgsz; max_patches: of a keep-aspect image, larger ones are shrunk.
    fast_jpeg: decode JPEGs that are 12 times too large at half their size.
    format: npy, clip-retrieval, parquet, lance, npz or safetensors. dtype: on disk, fp32, fp16 or int8.
    normalize: scale every vector to length 1: products are cosines. Always so in clip-retrieval's format.
    shard_size: images per file; default: 10000, fewer where rows are large.
    shards: "i/n" or (i, n): this process makes the i-th of n parts. cluster: a Ray address: local, auto, ray://….
    batch: images per engine call; "auto" measures a few sizes. time_limit: seconds per image.
        max_pixels: of one image; default: 89 million, 358 million of a JPEG.
    workers: decoding threads or processes; default: one per hardware thread. decode: threads, processes, or
        auto: processes for large jobs on machines with four or more cores. Pixels are the same.
    overwrite: delete the store at `out` first.
    update: where the images differ from a store that is there, embed new and changed ones and drop missing
        ones; without it they are counted in an OutputExistsError. keep_missing: keep the rows of missing
        ones. retry_quarantined: try unreadable images again. identify: notice changes by size and time, or
        by "hash" of the content. verify: check the hash of every file of the store, not only size and time.
    progress: show a bar on stderr. log: gets lines about the engine, the batch size and what was resumed.

    Unreadable images are quarantined and listed in OUT/quarantine.jsonl. Raises MisuseError for
    options that do not fit, OutputExistsError when `out` holds something else, BundleError, TamperedError,
    JudgementError and UnavailableError as `Embedder.open`; finished shards stay.
    """
    options = EmbedOptions(
        out=Path(out),
        outputs=(outputs,) if isinstance(outputs, str) else tuple(outputs),
        source=SourceOptions(column, id_column, every),
        device=device,
        imgsz=imgsz,
        preprocess=preprocess,
        keep_aspect=keep_aspect,
        max_patches=max_patches,
        fast_jpeg=fast_jpeg,
        format=format,
        dtype=dtype,
        normalize=normalize,
        shard_size=shard_size,
        part=parse_part(shards) if isinstance(shards, str) else shards,
        cluster=cluster,
        batch=None if batch == "auto" else batch,
        threads=threads,
        weight_budget=weight_budget,
        workers=workers,
        decode=decode,
        time_limit=time_limit,
        limits=ImageLimits.of(max_pixels),
        require_signature=given_path(require_signature),
        allow_unverified=allow_unverified,
        overwrite=overwrite,
        identify=identify,
        follow=Follow(update, keep_missing, retry_quarantined, verify),
    )
    return embed_images(given_paths(images), Path(engine), options, progress=progress, log=log)


def predict(
    images: PathLike | Iterable[PathLike],
    *,
    engine: PathLike,
    out: PathLike | None = None,
    task: str | None = None,
    top: int = 5,
    threshold: float | None = None,
    format: str = "jsonl",
    save: Sequence[str] | None = None,
    html: PathLike | None = None,
    column: str | None = None,
    id_column: str | None = None,
    every: int = 1,
    device: str = "auto",
    imgsz: Size | None = None,
    batch: int = BATCH_SIZE,
    threads: int | None = None,
    time_limit: float = TIME_LIMIT,
    max_pixels: int | None = None,
    require_signature: PathLike | None = None,
    allow_unverified: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    log: Log = lambda text: None,
    each: Callable[[dict[str, Any]], None] = lambda row: None,
) -> PredictReport:
    """Predict classes, masks, boxes or depth with a bundle that has a head. The same call again resumes.

    images, column, id_column, every, device, imgsz, threads, time_limit, max_pixels, require_signature,
        allow_unverified, progress, log: as in `embed`.
    out: a directory for `predictions.jsonl` and images; by default nothing is written, see the report's
        `rows`. overwrite: replace predictions that are there, once the new ones are complete.
    task: semantic, instance or panoptic, where the head can do several. top: number of classes of a
        classifier. threshold: smallest score of an object; default: the model's own.
    format: jsonl, or coco to write COCO JSON too. save: images to write, maps or overlays; default: both, of
        videos an overlay video. html: a page of the first 200 images, with what was found.
    batch: images per engine call, at most. each: called with every row, in order, as it is made.

    Results are in pixels of the images as people see them. Unreadable images are listed in `quarantined` and
    in OUT/quarantine.jsonl. Raises as `embed`.
    """
    from dinodeploy.tasks.predict import RunOptions, predict_images
    from dinodeploy.tasks.prediction import PredictOptions

    options = RunOptions.of(
        out=out,
        format=format,
        save=save,
        html=html,
        column=column,
        id_column=id_column,
        every=every,
        device=device,
        imgsz=imgsz,
        batch=batch,
        threads=threads,
        time_limit=time_limit,
        max_pixels=max_pixels,
        require_signature=require_signature,
        allow_unverified=allow_unverified,
        overwrite=overwrite,
    )
    wanted = PredictOptions(task, top, threshold)
    return predict_images(
        given_paths(images), Path(engine), options, wanted=wanted, each=each, progress=progress, log=log
    )


def _folds(fold: str | Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(fold, str):
        return {"all": known, "none": ()}.get(fold, (fold,))
    return tuple(fold)


def _check_before_export(rope_periods: str | None, target: str | None, no_engine: bool) -> None:
    """Raise MisuseError for unknown RoPE periods, an unknown target, or a target beside `no_engine`."""
    if rope_periods not in (None, "bf16", "fp32"):
        raise MisuseError(f"rope_periods is {rope_periods!r}; wanted bf16 or fp32")
    if no_engine and target is not None:
        raise MisuseError(f"no_engine and target {target} contradict each other; give one")
    if target not in (None, "auto"):
        reach("exporters.tensorrt.target", "build").find_target(target)


def _silent(text: str) -> None: ...
