"""Export: a checkpoint becomes a bundle that has been judged on this machine, or nothing at all.

    checkpoint ─> model ─> golden outputs, ranges ────────────────────────┐
                    └─> twin ─> traced program ─> graph ─> recipe ─> lint ─> model.onnx ─> judge ─> bundle

Everything is written into a hidden directory and renamed at the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from dinodeploy import __version__
from dinodeploy import manifest as manifests
from dinodeploy.atomic import begin_directory, commit_directory
from dinodeploy.bundle import GOLDEN_FILE, MODEL_FILE, Bundle, file_facts, open_bundle
from dinodeploy.embedder import check_bundle, rejection
from dinodeploy.errors import ExportError, JudgementError, MisuseError, OutputExistsError
from dinodeploy.golden import save_golden
from dinodeploy.manifest import EngineFacts, GraphFacts, Manifest, ModelFacts, OutputFacts
from dinodeploy.preprocess import Preprocess
from dinodeploy.receipts import Receipt
from dinov3_ref.checkpoints import NORMALIZATION, Checkpoint, build_model, normalization
from dinov3_ref.models import DinoVisionTransformer
from exporters.calibrate import LinearRange, watch_linears
from exporters.dialects import DIALECTS
from exporters.fold import FOLDS, make_twin
from exporters.golden import make_golden
from exporters.graph import to_graph
from exporters.lint import check_onnx, lint
from exporters.recipes import RECIPES, apply_recipe
from exporters.trace import TokenOutputs, trace
from exporters.write_onnx import share_weights, write_onnx

Say = Callable[[str], None]
CPU_FILE = "model.cpu.onnx"  # a 16-bit recipe as CPUs run it


@dataclass(frozen=True)
class ExportOptions:
    """How to export. Validated at birth: MisuseError."""

    recipe: str = "fp32"
    dialect: str = "portable"
    preset: str = "official"
    imgsz: tuple[int, int] | None = None  # H, W; None: the preset's own
    layers: tuple[int, ...] = ()
    folds: tuple[str, ...] = FOLDS
    external_data: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for option, value, known in (
            ("precision", self.recipe, RECIPES),
            ("dialect", self.dialect, DIALECTS),
        ):
            if value not in known:
                raise MisuseError(
                    f"{option} {value!r} is not there in this version; it has: {', '.join(known)}"
                )
        for fold in self.folds:
            if fold not in FOLDS:
                raise MisuseError(f"unknown fold {fold!r}; known: {', '.join(FOLDS)}")


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
    bundle, receipt = export_model(model, facts, preprocess, out, options, say=say)
    return bundle, receipt, (*checkpoint.notes, *assumed)


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
    say: Say = lambda _: None,
) -> tuple[Bundle, Receipt]:
    """Export a model in memory (a user's own subclass or layers included) to a judged bundle at `out`.

    Raises MisuseError for options that fit no model, OutputExistsError when `out` is taken, ExportError or
    LintError when no proper graph comes out, JudgementError when it is not the model. Then nothing is left.
    """
    for layer in options.layers:
        if not 0 <= layer < model.n_blocks:
            raise MisuseError(f"layer {layer} does not exist; the model has blocks 0..{model.n_blocks - 1}")
    _refuse_existing(out, options.overwrite)
    staging = begin_directory(out)
    try:
        manifest = _write_bundle(model, facts, preprocess, staging, options, say)
        manifests.write_manifest(manifest, staging)
        say("judging the bundle on this machine")
        bundle, receipt, verdict = check_bundle(staging, device="cpu")
        if not verdict.passed:
            raise JudgementError(rejection(bundle, verdict))
        commit_directory(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return open_bundle(out), receipt


def _refuse_existing(out: Path, overwrite: bool) -> None:
    """Only a bundle may be replaced, and only when asked: never a user's own folder."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / manifests.FILE_NAME).is_file():
        raise OutputExistsError(f"{out} exists and is no bundle; choose another --out")
    if not overwrite:
        raise OutputExistsError(f"{out} holds a bundle already; give --overwrite or another --out")


def _write_bundle(
    model: DinoVisionTransformer,
    facts: ModelFacts,
    preprocess: Preprocess,
    root: Path,
    options: ExportOptions,
    say: Say,
) -> Manifest:
    reference = TokenOutputs(model.eval(), options.layers)
    say("running the reference on the golden photographs")
    with watch_linears(model) as ranges:
        save_golden(make_golden(reference, preprocess), root / GOLDEN_FILE)
    graph = _make_graph(model, options, say)
    lint(graph)
    check_onnx(graph)
    dialect = DIALECTS[options.dialect]
    manifest = Manifest(
        format=manifests.FORMAT,
        created_by=f"dinodeploy {__version__}",
        model=facts,
        preprocess=preprocess,
        outputs=tuple(
            OutputFacts(
                str(value.name), tuple(d if isinstance(d, int) else str(d) for d in value.shape or ())
            )
            for value in graph.graph.outputs
        ),
        graph=GraphFacts(options.recipe, dialect.name, dialect.opset, options.folds, options.layers),
        engines={},
        files={},
        licence=manifests.WEIGHTS_LICENCE,
    )
    graph.metadata_props[manifests.METADATA_KEY] = manifest.facts()
    graph.metadata_props["licence"] = manifest.licence
    say("writing the weights")
    engines = _write_graphs(graph, ranges, root, options)
    names = dict.fromkeys(name for facts in engines.values() for name in facts.files)
    return replace(
        manifest,
        engines=engines,
        files={name: file_facts(root / name) for name in (MODEL_FILE, *names, GOLDEN_FILE)},
    )


def _make_graph(model: DinoVisionTransformer, options: ExportOptions, say: Say) -> ir.Model:
    """The model as an fp32 graph whose weights are still to be made."""
    twin, weights = make_twin(model, options.folds)
    module = TokenOutputs(twin, options.layers)
    dialect = DIALECTS[options.dialect]
    say("tracing")
    try:
        program = trace(module)
        say(f"translating to ONNX, dialect {dialect.name}")
        return to_graph(program, module, weights, dialect)
    except Exception as error:  # torch.export and torch.onnx raise whatever went wrong inside them
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"this model cannot be traced: {type(error).__name__}: {reason}") from error


def _write_graphs(
    graph: ir.Model, ranges: Mapping[str, LinearRange], root: Path, options: ExportOptions
) -> dict[str, EngineFacts]:
    """Write model.onnx, and for a 16-bit recipe its twin for CPUs; what runs here, by file name.

    Both twins read one file of weights. Only the CPU's is an engine for ONNX Runtime on a CPU, which would
    run the other in fp32 and hide an overflow (`recipes.py`).
    """
    recipe = RECIPES[options.recipe]
    if not recipe.roles:
        files = write_onnx(graph, root / MODEL_FILE, external_data=options.external_data)
        return {MODEL_FILE: EngineFacts("onnxruntime", tuple(file.name for file in files))}
    emulated = graph.clone()
    apply_recipe(graph, recipe, "typed", ranges)
    apply_recipe(emulated, recipe, "emulated", ranges)
    for variant in (graph, emulated):
        lint(variant)
        check_onnx(variant)
    files = write_onnx(graph, root / MODEL_FILE, external_data=True)
    share_weights(emulated, root / MODEL_FILE, root / CPU_FILE)
    return {CPU_FILE: EngineFacts("onnxruntime", (CPU_FILE, files[1].name))}
