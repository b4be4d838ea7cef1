"""Build a TensorRT engine and add it to a bundle: verify, build, write, update the manifest.

The bundle's identity (`manifest.facts()`) does not change, the order of its other engines stays, and so do
their receipts. The manifest is correct at every moment: a plan to be replaced is removed from it first, and
the new plan is added only when its file is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dinodeploy.backends.tensorrt.known_bad import has_free_sizes, refuse_known_bad
from dinodeploy.backends.tensorrt.refuse import RTX_DEFAULT, rtx_runs_on
from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, EngineChoice, file_facts, open_bundle
from dinodeploy.bundle.manifest import (
    CLS_ONLY,
    CLS_ONLY_OUTPUTS,
    CLS_PLAN,
    MODEL_FILE,
    BuildFacts,
    EngineFacts,
    Manifest,
    ProfileFacts,
)
from dinodeploy.errors import BundleError, MisuseError, OutputExistsError, TamperedError
from dinodeploy.files.atomic import atomic_file
from dinodeploy.parity.golden import load_golden
from exporters.tensorrt.api import TensorRT
from exporters.tensorrt.build_engine import Plan, build_engine
from exporters.tensorrt.device import Gpu, find_gpu
from exporters.tensorrt.inspect_engine import inspect_engine
from exporters.tensorrt.options import CURRENT, BuildOptions, check_options
from exporters.tensorrt.profiles import check_judgeable, choose_profiles, fit_fixed
from exporters.tensorrt.progress import Report
from exporters.tensorrt.target import AUTO, Target, automatic_target, load_target, version_of

__all__ = ["BuildOptions", "EngineRequest", "add_engine", "automatic_target"]

NAME = "model"
CLS_FILE = next(name for name, full in CLS_ONLY.items() if full == MODEL_FILE)


@dataclass(frozen=True)
class EngineRequest:
    """Which engine to build for a bundle. `batch` and `imgsz` hold one text per optimisation profile."""

    target: str = AUTO
    profile: str | None = None  # name of a predefined set of optimisation profiles
    batch: tuple[str, ...] = ()
    imgsz: tuple[str, ...] = ()
    name: str = NAME
    cls_only: bool = False  # a plan for the CLS output alone, beside the whole one of the same name
    options: BuildOptions = field(default_factory=BuildOptions)
    allow_known_bad: bool = False
    require_signature: Path | None = None  # a public key file
    overwrite: bool = False

    @property
    def full_plan(self) -> str:
        return f"{self.name}.plan"

    @property
    def plan_name(self) -> str:
        return f"{self.name}{CLS_PLAN}" if self.cls_only else self.full_plan

    @property
    def source(self) -> str:
        """The graph to build from."""
        return CLS_FILE if self.cls_only else MODEL_FILE

    def __post_init__(self) -> None:
        if not manifests.PLAIN_NAME.fullmatch(self.name):
            raise MisuseError(f"--name {self.name!r}; wanted a plain file name, for instance {NAME}")
        if self.full_plan.endswith(CLS_PLAN):
            raise MisuseError(
                f"--name {self.name}: names in .cls are for --cls-only plans; choose another name"
            )


def add_engine(
    path: str | Path,
    request: EngineRequest,
    *,
    report: Report = lambda fraction, phase: None,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[EngineChoice, tuple[str, ...]]:
    """Build an engine for the bundle at `path` and add it. Returns the engine, and notes for the user.

    Raises MisuseError, UnavailableError or ExportError; the bundle is then unchanged.
    """
    bundle = open_bundle(path, require_signature=request.require_signature)
    bundle.require_local("build")
    _refuse_existing(bundle, request)
    _check_cls_only(bundle, request)
    gpu = find_gpu()
    head = bundle.manifest.head
    profiles = choose_profiles(
        request.profile,
        request.batch,
        request.imgsz,
        bundle.manifest.preprocess,
        head.least_side if head is not None else 1,
    )
    profiles = fit_fixed(profiles, bundle.manifest.graph.fixed, bundle.manifest.preprocess)
    target, trt = load_target(request.target, gpu)
    check_options(request.options, target, trt, gpu)
    if not request.allow_known_bad:
        refuse_known_bad(
            target.module,
            version_of(trt),
            bundle.manifest.graph.recipe,
            gpu.compute_capability if gpu is not None else None,
            refit=request.options.refit,
            free_sizes=has_free_sizes(profiles),
        )
    log("verifying the bundle")
    _check_graph(bundle, request.source)
    notes = check_judgeable(profiles, load_golden(bundle.root / GOLDEN_FILE))
    notes += _notes_on_target(target, bundle.manifest.graph.recipe, gpu)
    if request.cls_only:
        notes += (
            f"{request.full_plan} and {request.plan_name} count as one engine from now on: embeddings made "
            f"with {request.full_plan} before have another fingerprint",
        )
    plan = build_engine(trt, bundle.root / request.source, profiles, request.options, report=report, log=log)
    facts = _build_facts(bundle.manifest, trt, profiles, request, target, gpu)
    log("writing the engine")
    if bundle.signed and manifests.read_manifest(bundle.home).digest != bundle.manifest.digest:
        raise TamperedError(f"{bundle.home} has changed since its signature was verified; nothing was added")
    layers = inspect_engine(trt, plan, gpu, version_compatible=request.options.version_compatible)
    inspection = {"runtime": facts.runtime, "plan": request.plan_name, **layers}
    engine = EngineFacts(target.module, (request.plan_name,), facts)
    if request.cls_only:
        engine = replace(engine, outputs=CLS_ONLY_OUTPUTS, same_numbers_as=request.full_plan)
    _commit(bundle.home, request.plan_name, plan, inspection, engine)
    if (bundle.home / manifests.SIGNATURE_FILE).exists():
        notes = (
            *notes,
            f"the bundle has changed; sign it again: dinodeploy bundle sign {bundle.home} --key …",
        )
    return open_bundle(bundle.home).choose(request.plan_name), notes


def _check_cls_only(bundle: Bundle, request: EngineRequest) -> None:
    """A CLS-only plan is built from the CLS-only graph and stands beside a whole plan. Raises MisuseError."""
    if not request.cls_only:
        return
    engines = bundle.manifest.engines
    if CLS_FILE not in engines:
        raise MisuseError(
            f"--cls-only: {bundle.home} has no {CLS_FILE} (bundles with a head and ConvNeXts have none); "
            "build the whole plan"
        )
    if request.full_plan not in engines:
        name = "" if request.name == NAME else f" --name {request.name}"
        raise MisuseError(
            f"--cls-only: {bundle.home} has no {request.full_plan}, for when more than CLS is asked for; "
            f"build that first: dinodeploy build {bundle.home}{name}"
        )


def _check_graph(bundle: Bundle, source: str) -> None:
    """Verify the graph to build from, before TensorRT's parser reads it. Raises BundleError."""
    if source not in bundle.manifest.engines:
        raise BundleError(f"{bundle.home} has no {source} to build from; export it again")
    graph = bundle.choose(source)
    bundle.verify(graph.needed_files)
    graph.check_external_data()


def _notes_on_target(target: Target, recipe: str, gpu: Gpu | None) -> tuple[str, ...]:
    if target.name != "rtx":
        return ()
    notes = []
    if gpu is not None and not rtx_runs_on(gpu):
        notes.append(f"this plan will not run on {gpu.name}: TensorRT-RTX has no kernels for it")
    if recipe == "int8":
        notes.append(
            "TensorRT-RTX's support matrix has 8-bit integers for weights only; compare it with fp16: "
            "dinodeploy bench"
        )
    return tuple(notes)


def _refuse_existing(bundle: Bundle, request: EngineRequest) -> None:
    """Refuse to replace anything but a built plan, and that only with `overwrite`."""
    name = request.plan_name
    engine = bundle.manifest.engines.get(name)
    if engine is None and name in bundle.manifest.files:
        raise MisuseError(f"--name {request.name}: {name} is another file of the bundle; choose another name")
    if not request.overwrite and (engine is not None or (bundle.home / name).exists()):
        raise OutputExistsError(f"{bundle.home / name} exists already; give --overwrite or another --name")


def _build_facts(
    manifest: Manifest,
    trt: TensorRT,
    profiles: tuple[ProfileFacts, ...],
    request: EngineRequest,
    target: Target,
    gpu: Gpu | None,
) -> BuildFacts:
    options = request.options
    capabilities = options.compute_capabilities
    if gpu is not None and (capabilities == (CURRENT,) or not target.builds_without_gpu):
        capabilities = (gpu.compute_capability,)
    elif not capabilities:  # its builder's default, of which 8.6 has no fp8
        fp8 = manifest.graph.recipe == "fp8"
        capabilities = tuple(name for name in RTX_DEFAULT if not (fp8 and name == "8.6"))
    return BuildFacts(
        runtime=f"{target.module} {trt.__version__}",
        source=request.source,
        source_sha256=manifest.engine_sha256(request.source),
        profiles=profiles,
        compute_capabilities=capabilities,
        driver=gpu.driver if gpu is not None else None,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        refittable=options.refittable,
        stripped=options.strip_plan,
        weight_streaming=options.weight_streaming,
        optimization_level=options.level,
    )


def _commit(root: Path, name: str, plan: Plan, inspection: dict[str, Any], engine: EngineFacts) -> None:
    """Write the plan and its inspection, and add both to the manifest (read again: it may have changed).

    The CLS-only plan of a plan that is replaced stays: both are built from the same weights.
    """
    inspection_name = f"{name}.json"
    manifest = manifests.read_manifest(root)
    beside = {key: facts for key, facts in manifest.engines.items() if facts.same_numbers_as == name}
    if name in manifest.engines:
        manifests.write_manifest(_without(manifest, name, inspection_name), root)
    with atomic_file(root / name) as file:
        file.write(plan.memory)
    with atomic_file(root / inspection_name) as file:
        file.write(json.dumps(inspection, indent=1, ensure_ascii=False).encode() + b"\n")
    manifest = manifests.read_manifest(root)
    written = {written: file_facts(root / written) for written in (name, inspection_name)}
    engines, files = manifest.engines | {name: engine, **beside}, manifest.files | written
    manifests.write_manifest(replace(manifest, engines=engines, files=files), root)


def _without(manifest: Manifest, name: str, inspection_name: str) -> Manifest:
    engines = {
        key: value for key, value in manifest.engines.items() if key != name and value.same_numbers_as != name
    }
    gone = (name, inspection_name)
    files = {key: value for key, value in manifest.files.items() if key not in gone}
    return replace(manifest, engines=engines, files=files)
