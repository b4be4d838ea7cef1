"""Write the files of a bundle: golden outputs, precision scheme, graphs, weights, and a manifest over all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from torch import Tensor

from dinodeploy import __version__
from dinodeploy.backends import open_backend
from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import GOLDEN_FILE, file_facts
from dinodeploy.bundle.manifest import (
    CPU_FILE,
    VNNI_FILE,
    EngineFacts,
    GraphFacts,
    Manifest,
    ModelFacts,
    OutputFacts,
)
from dinodeploy.errors import ExportError, JudgementError, MisuseError, reason_of
from dinodeploy.hardware.instructions import missing_instructions
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import load_golden, save_golden
from dinodeploy.parity.judge import judge_golden
from dinov3_ref.models import Backbone
from exporters.bundle.engines import BASELINE_FILE, write_engines
from exporters.bundle.golden import make_golden
from exporters.bundle.options import ExportOptions
from exporters.bundle.stream import filled
from exporters.dialects import DIALECTS
from exporters.graph.cls_only import can_cut
from exporters.graph.graph import to_graph
from exporters.graph.lint import Allowed, check_onnx, lint
from exporters.graph.summary import shape_of
from exporters.graph.take_bytes import take_bytes
from exporters.precision.apply_recipe import RecipeInputs
from exporters.precision.calibrate import watch_linears
from exporters.precision.quantization.calibrate import Calibrated, calibrate_8_bits
from exporters.precision.quantization.scheme import fold_scheme
from exporters.precision.quantization.write import OPSET
from exporters.precision.recipes import RECIPES
from exporters.precision.speed import BATCHES, compare_speed, verdict
from exporters.text.aligned import make_outputs
from exporters.text.graph import TextPart, write_text
from exporters.trace.fold import Weights, applicable_folds, fold_normalisation, make_meta_copy
from exporters.trace.trace import TokenOutputs, trace

Log = Callable[[str], None]


def write_bundle(
    model: Backbone,
    facts: ModelFacts,
    preprocess: Preprocess,
    root: Path,
    options: ExportOptions,
    licence: str,
    log: Log,
    state: Mapping[str, Tensor] | None = None,
    text: TextPart | None = None,
) -> tuple[Manifest, tuple[str, ...]]:
    """Write every file of the bundle except its manifest; returns the manifest and notes for the user.

    `state` holds the weights of a hollow model (`stream.py`). With `text`, a text graph is written too.
    """
    recipe = RECIPES[options.recipe]
    if options.backbone_outputs and text is None:
        raise MisuseError("--backbone-outputs is for dino.txt (--vocab); other bundles have them anyway")
    overrides = options.overrides if text is None else options.image_overrides
    chosen = (options.layers, options.attention, options.backbone_outputs, options.cls_layers)
    reference = make_outputs(model.eval(), *chosen)
    normalised = preprocess.with_dtype("float32")  # what the reference takes
    log("running the reference on the golden photographs")
    with filled(model, state), watch_linears(model) as ranges:
        save_golden(make_golden(reference, normalised), root / GOLDEN_FILE)
    options = replace(options, folds=applicable_folds(model, options.folds))
    meta_copy, weights = make_meta_copy(model, options.folds, state)
    calibrated: Calibrated | None = None
    if recipe.quantized:
        calibrated = calibrate_8_bits(model, weights, normalised, options.calibration, recipe, overrides, log)
        fold_scheme(weights, calibrated.scheme)
    takes_bytes = preprocess.dtype == "uint8"
    if takes_bytes:
        fold_normalisation(meta_copy, weights, preprocess.mean, preprocess.std)
    outputs = make_outputs(meta_copy, *chosen)
    graph = _make_graph(outputs, weights, options, log)
    if takes_bytes:
        take_bytes(graph)
    lint(graph)
    check_onnx(graph)
    manifest = _describe(graph, facts, preprocess, options, calibrated, licence)
    notes = list(calibrated.notes if calibrated else ())
    if text is not None:
        manifest, of_text = write_text(text, replace(manifest, text=text.facts), root, options, log)
        notes += of_text
    inputs = RecipeInputs(ranges, calibrated.scheme if calibrated else None, overrides)
    last = model.n_blocks - 1 if "cls" in outputs.output_names and can_cut(meta_copy) else None
    manifest, of_files = write_files(graph, manifest, inputs, root, log, last=last)
    return manifest, (*notes, *of_files)


def write_files(
    graph: ir.Model,
    manifest: Manifest,
    inputs: RecipeInputs,
    root: Path,
    log: Log,
    *,
    last: int | None = None,
    allowed: Allowed | None = None,
) -> tuple[Manifest, tuple[str, ...]]:
    """Write the graphs under the manifest's recipe; the golden file is there. Options as `write_engines`.

    Returns the manifest with engines and files, and notes. Raises JudgementError for a wrong 8-bit graph.
    """
    graph.metadata_props[manifests.METADATA_KEY] = manifest.facts()
    graph.metadata_props["licence"] = manifest.licence
    log("writing the weights")
    recipe, notes = RECIPES[manifest.graph.recipe], []
    written = write_engines(graph, recipe, inputs, root, last=last, allowed=allowed)
    if written.proxy is not None:
        log("judging the 8-bit graph for GPUs")
        _judge_proxy(written.proxy, root, manifest)
    if written.baseline is not None:
        log("measuring the speed against fp32")
        batches = (1,) if "batch" in manifest.graph.fixed else BATCHES
        best = root / _best_for_this_cpu(written.engines)
        speeds = compare_speed(best, written.baseline, manifest.preprocess, batches)
        notes.append(verdict(recipe.name, speeds))
        for temporary in root.glob(f"{BASELINE_FILE}*"):  # the graph and its weights
            temporary.unlink()
    names = dict.fromkeys(name for facts in written.engines.values() for name in facts.files)
    files = {name: file_facts(root / name) for name in (*names, GOLDEN_FILE)}
    made = replace(manifest, engines=written.engines, files={**manifest.files, **files})
    return made.with_preference(), tuple(notes)


def _best_for_this_cpu(engines: Mapping[str, EngineFacts]) -> str:
    vnni = engines.get(VNNI_FILE)
    return VNNI_FILE if vnni is not None and not missing_instructions(vnni.instructions) else CPU_FILE


def _make_graph(module: TokenOutputs, weights: Weights, options: ExportOptions, log: Log) -> ir.Model:
    """The traced meta copy as an fp32 graph with lazy weights."""
    log("tracing")
    try:
        program = trace(module)
        log(f"translating to ONNX, dialect {options.dialect}")
        return to_graph(program, module, weights, DIALECTS[options.dialect])
    except Exception as error:  # torch.export and torch.onnx pass on any exception
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise ExportError(f"this model cannot be traced: {reason}") from error


def _describe(
    graph: ir.Model,
    facts: ModelFacts,
    preprocess: Preprocess,
    options: ExportOptions,
    calibrated: Calibrated | None,
    licence: str,
) -> Manifest:
    """The manifest, still without engines and files."""
    dialect = DIALECTS[options.dialect]
    made = GraphFacts(
        options.recipe,
        dialect.name,
        OPSET if calibrated else dialect.opset,
        options.folds,
        options.layers,
        overrides=tuple(f"{pattern}={name}" for pattern, name in options.overrides),
        given_back=calibrated.fallback_layers if calibrated else (),
        calibration_pictures=calibrated.images if calibrated else 0,
        attention=options.attention,
    )
    return Manifest(
        format=manifests.FORMAT,
        created_by=f"dinodeploy {__version__}",
        model=facts,
        preprocess=preprocess,
        outputs=tuple(OutputFacts(str(out.name), tuple(shape_of(out))) for out in graph.graph.outputs),
        graph=made,
        engines={},
        files={},
        licence=licence,
    )


def _judge_proxy(proxy: Path, root: Path, manifest: Manifest) -> None:
    """Judge the typed graph through its CPU proxy graph, then delete that. Raises JudgementError."""
    backend = open_backend("onnxruntime", proxy)
    try:
        judged = judge_golden(load_golden(root / GOLDEN_FILE), backend.run, manifest)
    finally:
        backend.close()
        proxy.unlink()
    if not judged.passed:
        first = judged.failures[0]
        raise JudgementError(
            f"the {manifest.graph.recipe} graph for GPUs is not the model: {first.output} of case "
            f"{first.case!r}: {first.sentence}; calibrate on more images (--calibration) or keep layers "
            "in high precision (--override)"
        )
