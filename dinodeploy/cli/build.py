"""`dinodeploy build`: a bundle gets a TensorRT engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from dinodeploy.cli.options import RequireSignature
from dinodeploy.cli.output import print_json, print_notes, say
from dinodeploy.files import schema
from dinodeploy.hardware.packages import reach
from dinodeploy.pipeline.progress import build_progress


def build(
    bundle: Annotated[Path, Argument(help="The bundle to build an engine for, and into.")],
    target: Annotated[
        str, Option(help="tensorrt (for this GPU), rtx (for any RTX GPU, needs none here), or auto.")
    ] = "auto",
    profile: Annotated[
        str | None, Option(help="Ready-made shapes: usual (default), edge, server, dense.")
    ] = None,
    batch: Annotated[
        list[str] | None, Option(help="N or smallest:usual:largest, 1:8:64. Once a profile.")
    ] = None,
    imgsz: Annotated[
        list[str] | None, Option(help="H, HxW or smallest:usual:largest of such. Once a profile.")
    ] = None,
    workspace: Annotated[float | None, Option(help="GiB that kernels may use for scratch.")] = None,
    timing_cache: Annotated[Path | None, Option(help="File of kernel timings to use and to add to.")] = None,
    refit: Annotated[bool, Option("--refit", help="Weights may be exchanged later.")] = False,
    strip_plan: Annotated[
        bool, Option("--strip-plan", help="Leave the weights out; they are taken from the graph.")
    ] = False,
    version_compatible: Annotated[
        bool, Option("--version-compatible", help="Runs with later TensorRT versions too.")
    ] = False,
    hardware_compatible: Annotated[
        str, Option(help="none, ampere_plus or same_compute_capability.")
    ] = "none",
    weight_streaming: Annotated[
        bool, Option("--weight-streaming", help="Weights may stay in host memory: for the 7B.")
    ] = False,
    level: Annotated[
        int | None, Option(help="0 (builds fast) to 5 (runs fast). Default: TensorRT's.")
    ] = None,
    compute_capability: Annotated[
        list[str] | None, Option(help="RTX: GPUs to compile for now, 8.9 … or current. Repeatable.")
    ] = None,
    name: Annotated[str, Option(help="The plan is called NAME.plan.")] = "model",
    cls_only: Annotated[
        bool,
        Option("--cls-only", help="Build NAME.cls.plan, for embeddings of CLS alone, beside NAME.plan."),
    ] = False,
    allow_known_bad: Annotated[
        bool, Option("--allow-known-bad", help="Build with a TensorRT that is known to be wrong.")
    ] = False,
    require_signature: RequireSignature = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a plan that is there.")] = False,
    as_json: Annotated[bool, Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Build a TensorRT engine of a bundle into it. Ctrl-C stops it and leaves the bundle as it was."""
    builder = reach("exporters.tensorrt.add_engine", "build")
    request = builder.EngineRequest(
        target=target,
        profile=profile,
        batch=tuple(batch or ()),
        imgsz=tuple(imgsz or ()),
        name=name,
        cls_only=cls_only,
        options=builder.BuildOptions(
            workspace=workspace,
            timing_cache=timing_cache,
            refit=refit,
            strip_plan=strip_plan,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
            weight_streaming=weight_streaming,
            level=level,
            compute_capabilities=tuple(compute_capability or ()),
        ),
        allow_known_bad=allow_known_bad,
        require_signature=require_signature,
        overwrite=overwrite,
    )
    with build_progress() as (report, say):
        built, notes = builder.add_engine(bundle, request, report=report, log=say)
    print_notes(notes)
    _report(built, notes, as_json)


def _report(built: Any, notes: tuple[str, ...], as_json: bool) -> None:
    facts = built.facts.build
    size = built.manifest.files[built.file].bytes
    if as_json:
        made = {"bundle": str(built.root), "engine": built.file, "bytes": size}
        print_json({**made, "build": schema.dump(facts), "notes": list(notes)})
        return
    for_what = ", ".join(facts.compute_capabilities)
    say(f"{built.path}: {size:,} bytes, {facts.runtime}, for {for_what}")
    for profile in facts.profiles:
        low, often, high = ("x".join(map(str, shape)) for shape in (profile.min, profile.opt, profile.max))
        say(f"shapes (BxHxW): {low} to {high}, fastest at {often}")
    say(f"next: dinodeploy embed IMAGES --engine {built.path} --out embeddings")
