"""Export a whole model to a judged bundle; otherwise leave nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from torch import nn

from dinodeploy import __version__
from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, open_bundle
from dinodeploy.bundle.manifest import (
    WEIGHTS_LICENCE,
    GraphFacts,
    HeadFacts,
    Manifest,
    ModelFacts,
    OutputFacts,
)
from dinodeploy.errors import ExportError, reason_of
from dinodeploy.files.atomic import atomic_directory
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import save_golden
from dinov3_ref.models import Backbone, ConvNeXt, input_channels, stride_of
from dinov3_ref.tasks import LoadedTask
from exporters.bundle.golden import CASES, make_golden
from exporters.bundle.options import ExportOptions
from exporters.bundle.stage import judge_staged, refuse_existing
from exporters.bundle.write_bundle import write_files
from exporters.dialects import DIALECTS
from exporters.graph.lint import Allowed, check_onnx, lint
from exporters.graph.summary import shape_of
from exporters.modules.graph import to_graph
from exporters.modules.precision import measure_layers
from exporters.modules.trace import enlarge, trace
from exporters.modules.whole import NamedOutputs, TracedCopy, make_traced_copy

Log = Callable[[str], None]
ModuleOptions = ExportOptions


def export_task(
    loaded: LoadedTask, out: Path, options: ExportOptions, *, log: Log = lambda _: None
) -> tuple[Bundle, tuple[str, ...]]:
    """Export a whole model that `load_task_model` knows, to a judged bundle at `out`.

    Returns the bundle with its receipt, and notes. Raises as `exporters.bundle.export.export_model`.
    """
    model = loaded.model.eval()
    size = options.imgsz or loaded.size
    backbone = model.backbone
    preprocess = Preprocess.from_preset(
        options.preset or loaded.preset, size, loaded.mean, loaded.std, stride_of(backbone)
    )
    head = HeadFacts(
        task=model.task,  # type: ignore[arg-type]
        kind=loaded.kind,
        inputs=(),
        outputs=tuple(model.outputs),
        classes=model.classes,
        source=Path(loaded.source).name,
        sha256=loaded.sha256,
        licence=loaded.licence or "not stated",
        settings=dict(model.settings),
    )
    facts = _model_facts(backbone, loaded)
    fixed = ("height", "width") if model.fixed_size else ()
    return _export(model, model, facts, head, preprocess, model.outputs, out, options, fixed, log)


def _model_facts(backbone: Backbone, loaded: LoadedTask) -> ModelFacts:
    convnext = isinstance(backbone, ConvNeXt)
    return ModelFacts(
        arch=loaded.arch,
        embed_dim=backbone.embed_dim,
        depth=backbone.n_blocks,
        num_heads=0 if isinstance(backbone, ConvNeXt) else backbone.num_heads,
        patch_size=stride_of(backbone),
        storage_tokens=backbone.n_storage_tokens,
        weights="file",
        source=Path(loaded.source).name,
        sha256=loaded.sha256,
        layout=loaded.layout,
        dataset=loaded.dataset,
        rope_periods=None if convnext else "fp32",
    )


def _export(
    module: nn.Module,
    reference: nn.Module,
    facts: ModelFacts,
    head: HeadFacts,
    preprocess: Preprocess,
    outputs: Mapping[str, Sequence[int | str]],
    out: Path,
    options: ExportOptions,
    fixed: tuple[str, ...],
    log: Log,
) -> tuple[Bundle, tuple[str, ...]]:
    """Write and judge the bundle: `module` has backbones of ours, `reference` is as it was given."""
    refuse_existing(out, options.overwrite)
    with atomic_directory(out) as staging:
        log("running the reference on the golden photographs")
        least = getattr(reference, "least_side", 1) // preprocess.patch_size
        sizes = [(name, photos, grid and enlarge(grid, least)) for name, photos, grid in CASES]
        cases = make_golden(NamedOutputs(reference, outputs), preprocess, sizes)
        save_golden(cases, staging / GOLDEN_FILE)
        copied = make_traced_copy(module, options.folds)
        measured = measure_layers(module, copied.weights, preprocess, cases, options, log)
        graph = _make_graph(copied, preprocess, outputs, options, fixed, log)
        manifest = _describe(graph, facts, head, preprocess, options, fixed, tuple(copied.backbones))
        manifest = replace(manifest, graph=measured.facts(manifest.graph))
        inputs = measured.inputs(options, manifest.graph.backbones)
        allowed = Allowed(fixed, whole=True)
        manifest, notes = write_files(graph, manifest, inputs, staging, log, allowed=allowed)
        receipt, judged = judge_staged(staging, manifest, log)
    return replace(open_bundle(out), receipt=receipt), (*measured.notes, *notes, *judged)


def _make_graph(
    copied: TracedCopy,
    preprocess: Preprocess,
    outputs: Mapping[str, Sequence[int | str]],
    options: ExportOptions,
    fixed: tuple[str, ...],
    log: Log,
) -> ir.Model:
    log("tracing")
    channels = input_channels(next(iter(copied.backbones.values())))
    size = (preprocess.height, preprocess.width) if fixed else None
    dialect = DIALECTS[options.dialect]
    try:
        program = trace(copied, outputs, channels, size, fixed)
        log(f"translating to ONNX, dialect {options.dialect}")
        graph = to_graph(program, outputs, channels, copied.weights, dialect, size, fixed)
    except Exception as error:  # torch.export and torch.onnx pass on any exception
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise ExportError(f"this model cannot be traced: {reason}") from error
    lint(graph, allowed=Allowed(fixed, whole=True))
    check_onnx(graph)
    return graph


def _describe(
    graph: ir.Model,
    facts: ModelFacts,
    head: HeadFacts,
    preprocess: Preprocess,
    options: ExportOptions,
    fixed: tuple[str, ...],
    backbones: tuple[str, ...],
) -> Manifest:
    """The manifest, still without engines and files."""
    dialect = DIALECTS[options.dialect]
    made = GraphFacts(
        options.recipe,
        dialect.name,
        dialect.opset,
        options.folds,
        (),
        overrides=tuple(f"{pattern}={name}" for pattern, name in options.overrides),
        fixed=fixed,
        head_precision=options.head_precision,
        backbones=backbones,
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
        licence=WEIGHTS_LICENCE,
        head=head,
    )
