"""Export: a checkpoint becomes a bundle that has been judged on this machine, or nothing at all.

    checkpoint ─> model ─> golden outputs, ranges ────────────────────────┐
                    └─> twin ─> traced program ─> graph ─> recipe ─> lint ─> model.onnx ─> judge ─> bundle

Everything is written into a hidden directory and renamed at the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dinodeploy import manifest as manifests
from dinodeploy.atomic import begin_directory, commit_directory
from dinodeploy.bundle import Bundle, open_bundle
from dinodeploy.embedder import check_bundle, rejection
from dinodeploy.errors import JudgementError, MisuseError, OutputExistsError
from dinodeploy.manifest import ModelFacts
from dinodeploy.preprocess import Preprocess
from dinodeploy.receipts import Receipt
from dinov3_ref.checkpoints import META_LICENCE, NORMALIZATION, Checkpoint, build_model, normalization
from dinov3_ref.models import DinoVisionTransformer
from exporters.fold import FOLDS
from exporters.options import ExportOptions
from exporters.quantization.pictures import Calibration
from exporters.write_bundle import write_bundle

__all__ = ["FOLDS", "Calibration", "ExportOptions", "export_checkpoint", "export_model"]

Say = Callable[[str], None]


def export_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    options: ExportOptions,
    *,
    weights: str,
    rope_periods: str = "bf16",
    dataset: str | None = None,
    say: Say = lambda _: None,
) -> tuple[Bundle, Receipt, tuple[str, ...]]:
    """Export a loaded checkpoint; `weights` says where it came from (file, hub, random).

    Returns the bundle, its receipt, and notes on what was assumed. Input mean and std: those of `dataset`
    where one is given, else those beside the checkpoint or of its own dataset, else ImageNet's with a note.
    Raises MisuseError for an unknown `dataset`, and as `export_model`.
    """
    checkpoint, assumed = _settle_dataset(checkpoint, dataset, weights)
    mean, std = normalization(checkpoint)
    config = checkpoint.config
    preprocess = Preprocess.from_preset(options.preset, options.imgsz, mean, std, config.patch_size)
    facts = ModelFacts(
        arch=checkpoint.arch,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        patch_size=config.patch_size,
        storage_tokens=config.n_storage_tokens,
        weights=weights,  # type: ignore[arg-type]
        source=Path(checkpoint.source).name if weights == "file" else checkpoint.source,
        sha256=checkpoint.sha256,
        layout=checkpoint.layout,
        dataset=checkpoint.dataset,
        rope_periods=rope_periods,  # type: ignore[arg-type]
    )
    _refuse_existing(out, options.overwrite)
    say("building the reference model")
    model = build_model(checkpoint)
    bundle, receipt, notes = export_model(
        model, facts, preprocess, out, options, licence=_licence(checkpoint), say=say
    )
    return bundle, receipt, (*checkpoint.notes, *assumed, *notes)


def _licence(checkpoint: Checkpoint) -> str:
    """What the bundle says of its weights: Meta's licence, unless a file beside them names another."""
    if checkpoint.licence in (None, META_LICENCE):
        return manifests.WEIGHTS_LICENCE
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
    model: DinoVisionTransformer,
    facts: ModelFacts,
    preprocess: Preprocess,
    out: Path,
    options: ExportOptions,
    *,
    licence: str = manifests.WEIGHTS_LICENCE,
    say: Say = lambda _: None,
) -> tuple[Bundle, Receipt, tuple[str, ...]]:
    """Export a model in memory (a user's own subclass or layers included) to a judged bundle at `out`.

    Returns the bundle, its receipt, and notes on how it was made.
    Raises MisuseError for options that fit no model, OutputExistsError when `out` is taken, ExportError or
    LintError when no proper graph comes out, JudgementError when it is not the model. Then nothing is left.
    """
    for layer in options.layers:
        if not 0 <= layer < model.n_blocks:
            raise MisuseError(f"layer {layer} does not exist; the model has blocks 0..{model.n_blocks - 1}")
    _refuse_existing(out, options.overwrite)
    staging = begin_directory(out)
    try:
        manifest, notes = write_bundle(model, facts, preprocess, staging, options, licence, say)
        manifests.write_manifest(manifest, staging)
        say("judging the bundle on this machine")
        bundle, receipt, verdict = check_bundle(staging, device="cpu")
        if not verdict.passed:
            raise JudgementError(rejection(bundle, verdict))
        commit_directory(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return open_bundle(out), receipt, notes


def _refuse_existing(out: Path, overwrite: bool) -> None:
    """Only a bundle may be replaced, and only when asked: never a user's own folder."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / manifests.FILE_NAME).is_file():
        raise OutputExistsError(f"{out} exists and is no bundle; choose another --out")
    if not overwrite:
        raise OutputExistsError(f"{out} holds a bundle already; give --overwrite or another --out")
