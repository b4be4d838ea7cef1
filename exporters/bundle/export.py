"""Export a checkpoint to a bundle that has passed the judge on this machine; otherwise leave nothing.

    checkpoint ─> model ─> golden outputs, ranges ───────────────────────────┐
                    └─> meta copy ─> traced program ─> graph ─> recipe ─> lint ─> files ─> judge ─> bundle

Files are written into a hidden directory, which is renamed at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from dinodeploy.bundle.bundle import Bundle, open_bundle
from dinodeploy.bundle.manifest import WEIGHTS_LICENCE, AdapterFacts, ModelFacts
from dinodeploy.errors import MisuseError
from dinodeploy.files.atomic import atomic_directory
from dinodeploy.images.preprocess import Preprocess
from dinov3_ref.checkpoints import META_LICENCE, NORMALIZATION, Checkpoint, build_model, normalization
from dinov3_ref.heads import LoadedHead, layers_of
from dinov3_ref.models import Backbone, ConvNeXt, ConvNeXtConfig, ViTConfig
from exporters.bundle.options import ExportOptions
from exporters.bundle.stage import judge_staged, refuse_existing
from exporters.bundle.stream import hollow_model
from exporters.bundle.write_bundle import write_bundle
from exporters.heads import attach_head, check_fits
from exporters.precision.quantization.images import Calibration
from exporters.precision.recipes import RECIPES
from exporters.text.graph import TextPart
from exporters.trace.fold import FOLDS

__all__ = ["FOLDS", "Calibration", "ExportOptions", "export_checkpoint", "export_model"]

Log = Callable[[str], None]
OFFICIAL = "official"  # preprocessing of a backbone, where none is asked for


def export_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    options: ExportOptions,
    *,
    weights: str,
    rope_periods: str = "bf16",
    weights_key: str | None = None,
    dataset: str | None = None,
    head: LoadedHead | None = None,
    text: TextPart | None = None,
    log: Log = lambda _: None,
) -> tuple[Bundle, tuple[str, ...]]:
    """Export a loaded checkpoint; `weights` says where it came from (file, hub, random).

    weights_key: the one that `load_checkpoint` was given. text: the vision head and text tower of dino.txt,
    whose backbone the checkpoint is.
    Returns the bundle with its receipt, and notes on what was assumed. Input mean and std: those of `dataset`
    where one is given, else those beside the checkpoint or of its own dataset, else ImageNet's with a note.
    Raises MisuseError for an unknown `dataset`, and as `export_model`.
    """
    checkpoint, assumed = _settle_dataset(checkpoint, dataset, weights)
    if isinstance(checkpoint.config, ConvNeXtConfig) and rope_periods != "bf16":
        assumed = (*assumed, "a ConvNeXt has no RoPE: --rope-periods changes nothing")
    if isinstance(checkpoint.config, ViTConfig) and checkpoint.config.pos_embed_rope_dtype != "fp32":
        trained = checkpoint.config.pos_embed_rope_dtype
        checkpoint = replace(checkpoint, config=replace(checkpoint.config, pos_embed_rope_dtype="fp32"))
        assumed = (
            *assumed,
            f"RoPE is computed in fp32, as released models do; training computed it in {trained}",
        )
    mean, std = normalization(checkpoint)
    config = checkpoint.config
    preprocess = Preprocess.from_preset(options.preset or OFFICIAL, options.imgsz, mean, std, config.stride)
    preprocess = preprocess.with_dtype(options.input)
    facts = ModelFacts(
        arch=checkpoint.arch,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        patch_size=config.stride,
        storage_tokens=config.n_storage_tokens,
        weights=weights,  # type: ignore[arg-type]
        source=Path(checkpoint.source).name if weights == "file" else checkpoint.source,
        sha256=checkpoint.sha256,
        layout=checkpoint.layout,
        dataset=checkpoint.dataset,
        rope_periods=None if isinstance(config, ConvNeXtConfig) else rope_periods,  # type: ignore[arg-type]
        weights_key=weights_key,
        adapter=AdapterFacts(checkpoint.adapter.source, checkpoint.adapter.sha256)
        if checkpoint.adapter is not None
        else None,
    )
    refuse_existing(out, options.overwrite)
    log("building the reference model")
    # calibrating 8 bits runs the model too often to read every block anew each time; ConvNeXts are small
    whole = RECIPES[options.recipe].quantized or isinstance(config, ConvNeXtConfig)
    state = None if whole else checkpoint.state
    model = build_model(checkpoint) if state is None else hollow_model(checkpoint)
    if text is not None:
        model, state = text.with_head(model, state)
    bundle, notes = export_model(
        model,
        facts,
        preprocess,
        out,
        options,
        head=head,
        text=text,
        licence=_licence(checkpoint),
        log=log,
        state=state,
    )
    return bundle, (*checkpoint.notes, *assumed, *notes)


def _licence(checkpoint: Checkpoint) -> str:
    """What the bundle says of its weights: Meta's licence, unless a file beside them names another."""
    if checkpoint.licence in (None, META_LICENCE):
        return WEIGHTS_LICENCE
    return f"The weights are under {checkpoint.licence}, as the config.json beside them says."


def _settle_dataset(
    checkpoint: Checkpoint, dataset: str | None, weights: str
) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint with its training set, which decides input mean and std; a note where it is a guess."""
    if dataset is not None and dataset not in NORMALIZATION:
        raise MisuseError(f"--dataset {dataset!r} is unknown; known: {', '.join(NORMALIZATION)}")
    if dataset is not None:
        known = checkpoint.dataset
        note = (f"input mean and std are {dataset}'s, as asked, though the weights look like {known}'s",)
        asked = replace(checkpoint, dataset=dataset, mean=None, std=None)
        return asked, note if known not in (None, dataset) else ()
    if checkpoint.dataset or checkpoint.mean or weights == "random":
        return checkpoint, ()
    return checkpoint, (
        "input mean and std are ImageNet's: the file does not tell; else give --dataset sat493m",
    )


def export_model(
    model: Backbone,
    facts: ModelFacts,
    preprocess: Preprocess,
    out: Path,
    options: ExportOptions,
    *,
    head: LoadedHead | None = None,
    text: TextPart | None = None,
    licence: str = WEIGHTS_LICENCE,
    log: Log = lambda _: None,
    state: Mapping[str, Tensor] | None = None,
) -> tuple[Bundle, tuple[str, ...]]:
    """Export a model in memory (a user's own subclass or layers included) to a judged bundle at `out`.

    With `head`, the graph goes on to its outputs (`exporters.heads.in_memory` makes one of a `Head`).
    With `text`, the model has dino.txt's vision head (`TextPart.with_head`), and a text graph is made.
    `state` holds the weights where the model does not (`stream.py`).

    Returns the bundle with its receipt, and notes on how it was made.
    Raises MisuseError for options that fit no model, OutputExistsError when `out` is taken, ExportError or
    LintError when no proper graph comes out, JudgementError when it is not the model. Then nothing is left.
    """
    for layer in options.layers:
        if not 0 <= layer < model.n_blocks:
            kind = "stages" if isinstance(model, ConvNeXt) else "blocks"
            raise MisuseError(f"layer {layer} does not exist; the model has {kind} 0..{model.n_blocks - 1}")
    if options.attention and isinstance(model, ConvNeXt):
        raise MisuseError("--attention: a ConvNeXt has no attention; leave it out")
    fits = check_fits(head, facts) if head is not None else ()
    refuse_existing(out, options.overwrite)
    with atomic_directory(out) as staging:
        manifest, notes = write_bundle(
            model, facts, preprocess, staging, _with_layers(options, head), licence, log, state, text
        )
        if head is not None:
            log("adding the head")
            # patch maps that the head alone reads end inside the graph
            kept = {f"layer_{index}" for index in options.layers}
            names = (output.name for output in manifest.outputs)
            keep = [name for name in names if not name.startswith(("layer_", "cls_")) or name in kept]
            manifest = attach_head(staging, manifest, head, keep)
        receipt, judged = judge_staged(staging, manifest, log)
    return replace(open_bundle(out), receipt=receipt), (*notes, *judged, *fits)


def _with_layers(options: ExportOptions, head: LoadedHead | None) -> ExportOptions:
    """With the blocks that the head reads among the outputs, for the time being."""
    if head is None:
        return options
    more, cls = layers_of(head.head.inputs), layers_of(head.head.inputs, "cls")
    return replace(options, layers=tuple(dict.fromkeys((*options.layers, *more))), cls_layers=cls)
