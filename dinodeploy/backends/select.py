"""Choose the engine that runs for `--device`: one literal table of preferences.

With `auto` the first engine that this machine can run is used, and every better one that cannot run is
reported with its reason, so that a GPU is never left unused silently. With any other device, an engine that
cannot run is an error. A TensorRT plan is preferred to the graph; an engine file that the user names is
the only candidate.

`onnxruntime_cuda` and `openvino` run BUNDLE/model.onnx of any bundle. ONNX Runtime has no 8-bit products on a
GPU: it would run such a graph in 16 bits with conversions around every product (microsoft/onnxruntime issues
12229, 24807), so `auto` leaves it out for 8-bit recipes; `--device cuda` still takes it.

On a CPU, `auto` uses ONNX Runtime, which starts in half the time and is as fast within a tenth, except for
the recipes whose instructions only OpenVINO uses (`OPENVINO_PAYS`). This is a fixed rule, not a measurement:
two runs of one job must not use two engines, whose 8-bit numbers differ. `dinodeploy bench` measures both;
`--device openvino` or `onnxruntime` overrides.

Of ONNX Runtime's graphs the one that needs instructions of this CPU is taken (int8: VNNI), and one that needs
others is left out. A file that the user names is refused where it cannot be right.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator
from typing import Any

from dinodeploy.backends import BACKENDS, Backend, check_backend, open_backend
from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import Bundle, EngineChoice
from dinodeploy.bundle.manifest import MODEL_FILE, BuildFacts
from dinodeploy.errors import MisuseError, TamperedError, UnavailableError, raise_if_interrupted
from dinodeploy.hardware.devices import cpu_flags, cpu_name, find_gpu
from dinodeploy.hardware.instructions import missing_instructions

# device -> backends, best first
DEVICES: dict[str, tuple[str, ...]] = {
    "auto": ("tensorrt", "tensorrt_rtx", "onnxruntime_cuda", "openvino", "onnxruntime"),
    "cpu": ("openvino", "onnxruntime"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "cuda": ("onnxruntime_cuda",),
    "tensorrt": ("tensorrt", "tensorrt_rtx"),
}
RUN_MODEL_FILE = ("onnxruntime_cuda", "openvino")
EIGHT_BITS = ("int8", "fp8")
ON_CPU = ("onnxruntime", "openvino")

# recipe -> instructions with which OpenVINO is faster by a factor: it computes in bf16, ONNX Runtime in fp32
OPENVINO_PAYS: dict[str, tuple[str, ...]] = {
    "bf16": ("avx512_bf16", "amx_bf16"),
    "int8": ("avx512_bf16", "amx_bf16"),
}


def candidates(
    bundle: Bundle, device: str, outputs: Collection[str] | None = None, *, file: str | None = None
) -> list[EngineChoice]:
    """The engines that `device` allows, best first.

    `outputs` is what will be asked for, by default everything; CLS alone is computed by a CLS-only graph or
    plan if there is one. `file` is the one engine file to consider. Raises MisuseError for an unknown device,
    a `file` that the device does not run, or an output that does not exist.
    """
    if device not in DEVICES:
        raise MisuseError(f"--device {device!r} is unknown; wanted one of {', '.join(DEVICES)}")
    bundle.choose(file).check_outputs(outputs or ())
    found = [
        EngineChoice(bundle, name, backend)
        for backend in DEVICES[device]
        if device == backend or _pays(backend, device, bundle)
        for name in _engines_for(backend, bundle, outputs, file)
    ]
    if device == "auto":  # so that the reasons name an engine that only a later version can run
        engines = bundle.manifest.engines
        found += [
            EngineChoice(bundle, name, engines[name].backend)
            for name in bundle.manifest.order
            if engines[name].backend not in BACKENDS and engines[name].same_numbers_as is None
        ]
    if found:
        return found
    if file is not None:
        own = bundle.manifest.engines[file].backend
        raise MisuseError(f"{file} is for {own}, --device {device} is not; leave --device out")
    raise UnavailableError(
        f"{bundle.named} has no engine for --device {device}, only {', '.join(bundle.manifest.order)}; "
        f"build one: dinodeploy build {bundle.named}"
    )


def _pays(backend: str, device: str, bundle: Bundle) -> bool:
    """Whether a backend that `device` allows is worth trying for the bundle's recipe."""
    if backend == "openvino":
        return _openvino_pays(bundle)
    return not (
        backend == "onnxruntime_cuda" and device == "auto" and bundle.manifest.graph.recipe in EIGHT_BITS
    )


def _openvino_pays(bundle: Bundle) -> bool:
    """Whether OpenVINO is installed and uses much better instructions for the bundle's recipe."""
    wanted = OPENVINO_PAYS.get(bundle.manifest.graph.recipe, ())
    return bool(set(wanted) & set(cpu_flags())) and importlib.util.find_spec("openvino") is not None


def _engines_for(
    backend: str, bundle: Bundle, outputs: Collection[str] | None, file: str | None
) -> Iterator[str]:
    """Names of the engines that a backend may run: first those that compute just the outputs asked for."""
    engines, order = bundle.manifest.engines, bundle.manifest.order
    if backend in RUN_MODEL_FILE:
        full = [name for name in order if name == MODEL_FILE]
    else:
        full = [
            name
            for name in order
            if engines[name].backend == backend and engines[name].same_numbers_as is None
        ]
    partial = [name for one in full for name in order if engines[name].same_numbers_as == one]
    if file is not None:
        yield from (name for name in (*partial, *full) if name == file)
        return
    partial, full = _for_this_cpu(bundle, partial), _for_this_cpu(bundle, full)
    if outputs is not None:
        yield from (name for name in partial if set(outputs) <= set(engines[name].outputs))
    yield from full


def _for_this_cpu(bundle: Bundle, names: list[str]) -> list[str]:
    """The engines that need instructions of this CPU, if there are any, else those that need none."""
    needed = {name: bundle.manifest.engines[name].instructions for name in names}
    can_run = [name for name in names if not missing_instructions(needed[name])]
    return [name for name in can_run if needed[name]] or can_run


def open_on(
    bundle: Bundle,
    device: str,
    outputs: Collection[str] | None = None,
    *,
    file: str | None = None,
    **options: Any,
) -> tuple[EngineChoice, Backend, tuple[str, ...]]:
    """Open the best engine that `device` allows and this machine can run; its files are hashed first.

    Returns the engine, the opened backend, and why better engines cannot run: those for a CPU always, those
    for a GPU on a machine that has one. `outputs` and `file` as in `candidates`, `options` are
    `OpenOptions`'. Raises UnavailableError with every reason when no engine can run, KeyboardInterrupt rather
    than take another engine, TamperedError for a file or an engine of another bundle.
    """
    reasons: list[tuple[str, str]] = []  # backend, why it cannot run
    verified: set[str] = set()
    for choice in candidates(bundle, device, outputs, file=file):
        names = [name for name in choice.needed_files if name not in verified]
        try:
            backend = open_verified(choice, names, **options)
        except UnavailableError as error:
            raise_if_interrupted(error)
            reasons.append((choice.backend, str(error)))
            continue
        told = [reason for name, reason in reasons if name in ON_CPU or _has_gpu()]
        return choice, backend, tuple(dict.fromkeys(told))
    raise UnavailableError("; ".join(dict.fromkeys(reason for _, reason in reasons)))


def open_verified(choice: EngineChoice, names: Collection[str], **options: Any) -> Backend:
    """Verify the files `names`, then open the engine; what cannot run here is not fetched from the hub.

    Raises as `open_choice`, and HubError, which is no reason to take another engine.
    """
    bundle = choice.bundle
    if bundle.hub is not None:
        check_backend(choice.backend, choice.path, choice.facts.build)
    bundle.verify(names)
    return open_choice(choice, **options)


def open_choice(choice: EngineChoice, **options: Any) -> Backend:
    """Open an engine whose files have been verified.

    Raises UnavailableError, TamperedError, BundleError for a graph that reads other files than its own.
    """
    if missing := missing_instructions(choice.facts.instructions):
        raise UnavailableError(
            f"{choice.named} needs {', '.join(missing).upper()} instructions, which {cpu_name()} lacks; "
            f"leave the file out: {choice.bundle.named}"
        )
    choice.check_external_data()
    build = choice.facts.build
    if build is not None and build.stripped:  # the runtime reads the weights of its source
        _check_source(choice, build)
    backend = open_backend(choice.backend, choice.path, build=build, **options)
    try:
        if build is not None:
            _check_source(choice, build)
        elif backend.metadata.get(manifests.METADATA_KEY) != choice.manifest.facts():
            raise TamperedError(
                f"{choice.named} was exported with other facts than {manifests.FILE_NAME} states; "
                "export again instead of mixing files of two bundles"
            )
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


def _check_source(choice: EngineChoice, build: BuildFacts) -> None:
    """A plan must belong to its bundle: it is listed with the hash of the graph that it was built from."""
    if choice.manifest.engine_sha256(build.source) != build.source_sha256:
        raise TamperedError(
            f"{choice.named} was built from another {build.source} than this bundle's; "
            f"build it again: dinodeploy build {choice.bundle.named} --overwrite"
        )
