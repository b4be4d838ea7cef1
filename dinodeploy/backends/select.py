"""Which engine of a bundle runs where: `--device`, one literal table of preference.

A GPU is never left unused in silence: with `auto` the first that can run does, and what was passed over is
said with its reason; with any other device, what cannot run is an error. A plan is preferred to the graph,
and a file named by the user is the only one considered.

`onnxruntime_cuda`, `onnxruntime_tensorrt` and `openvino` stand in no manifest: they run BUNDLE/model.onnx,
whatever bundle it is. TensorRT's provider builds an engine for each new size while it runs, so `auto` leaves
it out.

On a CPU the rule is: ONNX Runtime, which starts in half the time and is as fast within a tenth, but for the
recipes whose instructions only OpenVINO uses (`OPENVINO_PAYS`). A rule and not a stopwatch: two runs of one
job must not take two engines, whose 8-bit numbers differ. `dinodeploy bench` measures, and `--device
openvino` or `onnxruntime` overrides.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from dinodeploy.backends import BACKENDS, Backend, open_backend
from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import Bundle, graph_files, tails
from dinodeploy.bundle.manifest import TAIL_OUTPUTS, TAILS
from dinodeploy.errors import MisuseError, TamperedError, UnavailableError
from dinodeploy.hardware.devices import cpu_flags, find_gpu

# device -> backends, best first
DEVICES: dict[str, tuple[str, ...]] = {
    "auto": ("tensorrt", "tensorrt_rtx", "onnxruntime_cuda", "openvino", "onnxruntime"),
    "cpu": ("openvino", "onnxruntime"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "cuda": ("onnxruntime_cuda",),
    "tensorrt": ("tensorrt", "tensorrt_rtx", "onnxruntime_tensorrt"),
}
DERIVED = ("onnxruntime_cuda", "onnxruntime_tensorrt", "openvino")  # run the graph itself
WITH_TAIL = ("onnxruntime", "openvino")  # run the graph for CLS alone where no more is asked for

# recipe -> instructions with which OpenVINO is faster by a factor: it computes in bf16, ONNX Runtime in fp32
OPENVINO_PAYS: dict[str, tuple[str, ...]] = {
    "bf16": ("avx512_bf16", "amx_bf16"),
    "int8": ("avx512_bf16", "amx_bf16"),
}


def candidates(bundle: Bundle, device: str, outputs: Collection[str] | None = None) -> list[Bundle]:
    """The bundle once for each engine that `device` allows, best first.

    `outputs` is what will be asked for, everything by default: where that is CLS alone, CPUs run the graph
    that has nothing else. Raises MisuseError for an unknown device, one that the named engine is not for, or
    an output that it does not have.
    """
    if device not in DEVICES:
        raise MisuseError(f"--device {device!r} is unknown; wanted one of {', '.join(DEVICES)}")
    _check_outputs(bundle, outputs)
    cls_alone = outputs is not None and set(outputs) <= set(TAIL_OUTPUTS)
    found = [
        replace(bundle, engine=engine, backend=backend if backend in DERIVED else None)
        for backend in DEVICES[device]
        if backend != "openvino" or device == "openvino" or _openvino_pays(bundle)
        for engine in _engines_for(backend, bundle, cls_alone)
        if not bundle.named or engine == bundle.engine
    ]
    if device == "auto":  # what a later version can run is named in the reasons
        engines = bundle.manifest.engines.items()
        found += [replace(bundle, engine=e) for e, facts in engines if facts.backend not in BACKENDS]
    if found:
        return found
    if bundle.named:
        own = bundle.engine_facts.backend
        raise MisuseError(f"{bundle.engine} is for {own}, --device {device} is not; leave --device out")
    raise UnavailableError(
        f"{bundle.root} has no engine for --device {device}, only {', '.join(bundle.manifest.engines)}; "
        f"build one: dinodeploy build {bundle.root}"
    )


def _check_outputs(bundle: Bundle, outputs: Collection[str] | None) -> None:
    for name in outputs or ():
        if name not in bundle.outputs:
            raise MisuseError(
                f"outputs {','.join(outputs or ())!r}: {name!r} does not fit; {bundle.engine_path} has "
                f"{', '.join(bundle.outputs)}"
            )


def _openvino_pays(bundle: Bundle) -> bool:
    """Whether OpenVINO is here and has by far the better instructions for the bundle's recipe."""
    wanted = OPENVINO_PAYS.get(bundle.manifest.graph.recipe, ())
    return bool(set(wanted) & set(cpu_flags())) and importlib.util.find_spec("openvino") is not None


def _engines_for(backend: str, bundle: Bundle, cls_alone: bool) -> Iterator[str]:
    """Names of the engines of a backend, before them one for CLS alone if that is enough or it was named."""
    if backend in DERIVED:
        whole = list(graph_files(bundle.manifest)[:1])
    else:
        whole = [name for name, facts in bundle.manifest.engines.items() if facts.backend == backend]
    if backend in WITH_TAIL and (cls_alone or bundle.engine in TAILS):
        yield from (tail for name in whole for tail in tails(bundle.manifest) if TAILS[tail] == name)
    yield from whole


def open_on(
    bundle: Bundle, device: str, outputs: Collection[str] | None = None, **options: Any
) -> tuple[Bundle, Backend, tuple[str, ...]]:
    """Open the best engine that `device` allows and this machine can run; its files are hashed first.

    Returns the bundle with that engine, the opened backend, and why better ones were passed over; of a
    machine without a GPU that is nothing to tell. `outputs` as in `candidates`, `options` are `OpenOptions`'.
    Raises UnavailableError
    with every reason when none can run, TamperedError for a file or an engine of another bundle.
    """
    reasons: list[str] = []
    verified: set[str] = set()
    for candidate in candidates(bundle, device, outputs):
        names = [name for name in candidate.needed_files if name not in verified]
        candidate.verify(names)
        verified.update(names)
        try:
            backend = open_candidate(candidate, **options)
        except UnavailableError as error:
            reasons.append(str(error))
            continue
        return candidate, backend, tuple(dict.fromkeys(reasons)) if _has_gpu() else ()
    raise UnavailableError("; ".join(dict.fromkeys(reasons)))


def open_candidate(candidate: Bundle, **options: Any) -> Backend:
    """Open one of `candidates`, whose files have been verified. Raises UnavailableError, TamperedError."""
    facts = candidate.engine_facts
    backend = open_backend(facts.backend, candidate.engine_path, build=facts.build, **options)
    try:
        _check_origin(candidate, backend)
    except TamperedError:
        backend.close()
        raise
    return backend


def _has_gpu() -> bool:
    try:
        find_gpu()
    except UnavailableError:
        return False
    return True


def _check_origin(bundle: Bundle, backend: Backend) -> None:
    """An engine must come from this bundle: a graph says so itself, a plan by the graph it was built from."""
    facts, files = bundle.engine_facts, bundle.manifest.files
    if facts.build is None:
        if backend.metadata.get(manifests.METADATA_KEY) != bundle.manifest.facts():
            raise TamperedError(
                f"{bundle.engine_path} was exported with other facts than {manifests.FILE_NAME} states; "
                "export again instead of mixing files of two bundles"
            )
        return
    source = facts.build.source
    if source not in files or files[source].sha256 != facts.build.source_sha256:
        raise TamperedError(
            f"{bundle.engine_path} was built from another {source} than this bundle's; "
            f"build it again: dinodeploy build {bundle.root} --overwrite"
        )
