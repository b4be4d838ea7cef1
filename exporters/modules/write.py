"""Write and judge the bundle of a whole model.

reference ─> golden outputs ──────────────────────────────────────────┐
module ─> traced copy ─> graph ─> recipe ─> lint ─> files ─────────> judge ─> bundle
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import nn

from dinodeploy import __version__
from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, open_bundle
from dinodeploy.bundle.manifest import GraphFacts, HeadFacts, Manifest, ModelFacts, OutputFacts
from dinodeploy.errors import ExportError, JudgementError, LintError
from dinodeploy.files.atomic import atomic_directory
from dinodeploy.parity.golden import save_golden
from dinov3_ref.models import input_channels
from exporters.bundle.golden import make_golden
from exporters.bundle.options import ExportOptions
from exporters.bundle.stage import judge_staged, refuse_existing
from exporters.bundle.write_bundle import write_files
from exporters.dialects import DIALECTS
from exporters.graph.lint import Allowed, check_onnx, lint
from exporters.graph.summary import shape_of
from exporters.modules.explain import BY_VALUES, is_by_values, place_of, why_not_traced
from exporters.modules.graph import to_graph
from exporters.modules.precision import measure_layers
from exporters.modules.sizes import Sizes, enlarge
from exporters.modules.trace import shapes_of, trace
from exporters.modules.whole import Log, TracedCopy, make_traced_copy
from exporters.trace.trace import TRACED_GRID


@dataclass(frozen=True, eq=False)
class Job:
    """What to export: `module` has backbones of ours, `reference` is the model as it was given.

    wrap: puts either into a module that returns the outputs called `names`, in order. shapes: theirs, with
    free sizes by name; default: from the trace.
    """

    module: nn.Module
    reference: nn.Module
    wrap: Callable[[nn.Module], Any]
    names: tuple[str, ...]
    facts: ModelFacts
    head: HeadFacts
    sizes: Sizes
    licence: str
    shapes: Mapping[str, Sequence[int | str]] | None = None


def write_whole(
    job: Job, out: Path, options: ExportOptions, log: Log, *, allowed: bool = False
) -> tuple[Bundle, tuple[str, ...]]:
    """Write and judge the bundle. Returns it with its receipt, and notes.

    allowed: whether sizes may be fixed when a graph with free ones cannot be made, or is wrong. Raises
    OutputExistsError, ExportError or LintError when no proper graph comes out, JudgementError when it is not
    the model. Then nothing is left.
    """
    refuse_existing(out, options.overwrite)
    try:
        return _attempt(job, out, options, log)
    except (ExportError, JudgementError) as error:
        if not allowed or isinstance(error, LintError) or is_by_values(error):
            raise
        first = error
    for axes in (("height", "width"), ("batch", "height", "width")):
        sizes = job.sizes.with_fixed(axes, f"with free sizes: {first}")
        if sizes.fixed == job.sizes.fixed:
            continue
        log(f"trying again with fixed {', '.join(sizes.fixed)}")
        try:
            return _attempt(replace(job, sizes=sizes), out, options, log)
        except (ExportError, JudgementError):
            continue
    raise first


def _attempt(job: Job, out: Path, options: ExportOptions, log: Log) -> tuple[Bundle, tuple[str, ...]]:
    sizes = job.sizes
    with atomic_directory(out) as staging:
        log("running the reference on the golden photographs")
        cases = make_golden(job.wrap(job.reference), sizes.preprocess, sizes.cases)
        save_golden(cases, staging / GOLDEN_FILE)
        copied = make_traced_copy(job.module, options.folds)
        measured = measure_layers(job.module, copied.weights, sizes.preprocess, cases, options, log)
        graph = _make_graph(job, copied, options, log)
        manifest = _describe(graph, job, options, tuple(copied.backbones))
        manifest = replace(manifest, graph=measured.facts(manifest.graph))
        inputs = measured.inputs(options, manifest.graph.backbones)
        allowed = Allowed(sizes.fixed, whole=True)
        manifest, notes = write_files(graph, manifest, inputs, staging, log, allowed=allowed)
        receipt, judged = judge_staged(staging, manifest, log)
    return replace(open_bundle(out), receipt=receipt), (*sizes.notes, *measured.notes, *notes, *judged)


def _make_graph(job: Job, copied: TracedCopy, options: ExportOptions, log: Log) -> ir.Model:
    log("tracing")
    sizes, dialect = job.sizes, DIALECTS[options.dialect]
    preprocess, channels = sizes.preprocess, input_channels(next(iter(copied.backbones.values())))
    size = (preprocess.height, preprocess.width) if {"height", "width"} & set(sizes.fixed) else None
    p, grid = preprocess.patch_size, enlarge(TRACED_GRID, sizes.least)
    try:
        program = trace(job.wrap(copied.module), channels, p, size, grid, sizes.fixed)
        log(f"translating to ONNX, dialect {options.dialect}")
        shapes = job.shapes or shapes_of(program, job.names, p)
        graph = to_graph(program, shapes, channels, copied.weights, dialect, size, sizes.fixed)
    except Exception as error:  # torch.export and torch.onnx pass on any exception
        raise ExportError(f"this model cannot be traced: {why_not_traced(error)}") from error
    try:
        lint(graph, allowed=Allowed(sizes.fixed, whole=True))
    except LintError as error:
        if (place := place_of(program, "nonzero")) is None:
            raise
        raise LintError(f"{error}; it comes from {place}; {BY_VALUES}") from error
    check_onnx(graph)
    return graph


def _describe(graph: ir.Model, job: Job, options: ExportOptions, backbones: tuple[str, ...]) -> Manifest:
    """The manifest, still without engines and files."""
    dialect = DIALECTS[options.dialect]
    made = GraphFacts(
        options.recipe,
        dialect.name,
        dialect.opset,
        options.folds,
        (),
        overrides=tuple(f"{pattern}={name}" for pattern, name in options.overrides),
        fixed=job.sizes.fixed,
        head_precision=options.head_precision,
        backbones=backbones,
    )
    return Manifest(
        format=manifests.FORMAT,
        created_by=f"dinodeploy {__version__}",
        model=job.facts,
        preprocess=job.sizes.preprocess,
        outputs=tuple(OutputFacts(str(out.name), tuple(shape_of(out))) for out in graph.graph.outputs),
        graph=made,
        engines={},
        files={},
        licence=job.licence,
        head=job.head,
    )
