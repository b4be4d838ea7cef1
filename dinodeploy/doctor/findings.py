"""Rules that find problems of a machine, its packages and a bundle: one function per rule, in output order.

error     no engine can run, or the given bundle cannot
warning   wrong, known to be bad, or unused
note      good to know
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from dinodeploy.backends.tensorrt.known_bad import has_free_sizes, reports_on
from dinodeploy.backends.tensorrt.refuse import install_command, numbers, rebuild_command
from dinodeploy.bundle.bundle import Bundle
from dinodeploy.doctor.device_checks import DeviceCheck
from dinodeploy.doctor.packages import PACKAGES, Installed
from dinodeploy.doctor.system import System

Level = Literal["error", "warning", "note"]

_DRIVERS = "https://www.nvidia.com/drivers"
_CONTAINERS = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
_JETPACK = "https://developer.nvidia.com/embedded/jetpack"
_OLDEST_JETPACK = 6  # the first with a supported TensorRT (10.3)
_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # package -> module, for plans


@dataclass(frozen=True)
class Finding:
    """One problem and the command or action that fixes it."""

    level: Level
    what: str
    fix: str
    link: str = ""


@dataclass(frozen=True)
class Examined:
    """Everything that the rules examine."""

    system: System
    packages: dict[str, Installed]
    onnx_runtimes: list[str]
    bundle: Bundle | None
    devices: tuple[DeviceCheck, ...]
    file: str | None = None  # the examined engine file; None: the whole bundle


def find_findings(examined: Examined) -> tuple[Finding, ...]:
    """The findings of all rules, errors first."""
    found = [finding for rule in RULES for finding in rule(examined)]
    return tuple(sorted(found, key=lambda finding: get_args(Level).index(finding.level)))


def _no_runtime(examined: Examined) -> Iterator[Finding]:
    if not any(examined.packages[name].works for name in ("onnxruntime", *_MODULES)):
        yield Finding("error", "no runtime for engines is installed", "pip install onnxruntime")


def _bundle_runs(examined: Examined) -> Iterator[Finding]:
    """Decided by `--device auto`, the default."""
    if examined.bundle is None:
        return
    auto = examined.devices[0]
    others = [check.device for check in examined.devices if check.runs]
    if not auto.runs:
        for reason in auto.reasons:
            what, fix = _split(reason)
            beside = f" (--device {others[0]} can)" if others else ""
            yield Finding("error", f"{examined.bundle.named} cannot run here{beside}: {what}", fix)
    elif examined.system.gpu is not None and (auto.runs_on or "").startswith("cpu"):
        for reason in auto.reasons:
            what, fix = _split(reason)
            yield Finding("warning", f"the GPU is not used: {what}", fix)


def _bundle_judged(examined: Examined) -> Iterator[Finding]:
    if examined.bundle is None:
        return
    auto = examined.devices[0]
    if auto.runs and not auto.judged:
        what = f"{auto.engine} was not judged by {auto.runtime} on {auto.runs_on} yet; the first use does it"
        yield Finding("note", what, f"dinodeploy check {examined.bundle.named}")


def _bundle_fits(examined: Examined) -> Iterator[Finding]:
    allowed = examined.system.memory_allowed
    if examined.bundle is None or allowed is None:
        return
    files = examined.bundle.manifest.files
    engine = examined.bundle.choose(examined.file)
    size = sum(files[name].bytes for name in engine.facts.files)
    if size > allowed:
        what = f"{engine.file} has {_gib(size)} of weights, this process may use {_gib(allowed)}"
        yield Finding("warning", what, "raise the container memory limit, or export with --fp16 or --int8")


def _plans_of_bad_versions(examined: Examined) -> Iterator[Finding]:
    if examined.bundle is None:
        return
    recipe = examined.bundle.manifest.graph.recipe
    for name, facts in examined.bundle.manifest.engines.items():
        if facts.build is None:
            continue
        module, _, version = facts.build.runtime.partition(" ")
        for capability in facts.build.compute_capabilities or (None,):
            asked = {
                "refit": facts.build.refittable,
                "free_sizes": has_free_sizes(facts.build.profiles),
            }
            for row in reports_on(module, numbers(version), recipe, capability, **asked):
                what = f"{name} was built by {facts.build.runtime}, which is known to be wrong: {row.what}"
                fix = f"with another version: {rebuild_command(examined.bundle.home / name, module)}"
                yield Finding("warning", what, fix, row.link)


def _known_bad(examined: Examined) -> Iterator[Finding]:
    """Known defects of the installed TensorRT, for the recipe of the bundle if one is given."""
    recipe = examined.bundle.manifest.graph.recipe if examined.bundle else None
    gpu = examined.system.gpu
    for name, module in _MODULES.items():
        version = examined.packages[name].version
        capability = gpu.compute_capability if gpu else None
        for row in reports_on(
            module, numbers(version or ""), recipe, capability, refit=True, free_sizes=True
        ):
            what = f"{name} {version} is known to be wrong: {row.what}"
            yield Finding("warning", what, f"pip install --upgrade '{name}!={version}'", row.link)


def _too_old(examined: Examined) -> Iterator[Finding]:
    for package in PACKAGES:
        found = examined.packages[package.name]
        if found.older_than(package.minimum):
            why = f": {package.why}" if package.why else f", for {package.purpose}"
            what = f"{package.name} is {found.version}, wanted {package.minimum} or later{why}"
            yield Finding("warning", what, package.install, package.link)


def _broken(examined: Examined) -> Iterator[Finding]:
    for package in PACKAGES:
        if (found := examined.packages[package.name]).broken:
            what = f"{package.name} {found.version} is installed but cannot be loaded: {found.broken}"
            yield Finding("warning", what, f"pip install --force-reinstall '{package.name}'")


def _two_onnx_runtimes(examined: Examined) -> Iterator[Finding]:
    names = examined.onnx_runtimes
    if len(names) > 1:
        keep = names[-1]  # the one with most providers
        what = f"{' and '.join(names)} are installed together and overwrite each other's files"
        yield Finding("warning", what, f"pip uninstall -y {' '.join(names)} && pip install {keep}")


def _gpu_unseen(examined: Examined) -> Iterator[Finding]:
    system = examined.system
    if system.gpu is not None:
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if (system.kernel_driver or system.gpu_on_bus) and hidden in ("", "-1", "NoDevFiles"):
        yield Finding("warning", f"CUDA_VISIBLE_DEVICES={hidden} hides the GPU", "unset CUDA_VISIBLE_DEVICES")
    elif system.kernel_driver:
        what = f"the NVIDIA driver is loaded, but this process cannot use it: {_split(system.no_gpu)[0]}"
        fix = "in a container: docker run --gpus all …; otherwise run nvidia-smi"
        yield Finding("warning", what, fix, _CONTAINERS)
    elif system.gpu_on_bus:
        what = "there is an NVIDIA GPU, but no driver"
        yield Finding("warning", what, "install the NVIDIA driver", _DRIVERS)


def _gpu_without_runtime(examined: Examined) -> Iterator[Finding]:
    """No installed runtime can use the GPU."""
    if examined.system.gpu is None:
        return
    packages = examined.packages
    plans = any(packages[name].works for name in _MODULES)
    if plans and not packages["cuda-bindings"].works:
        what = "plans need cuda-bindings, which is not installed"
        yield Finding("warning", what, install_command("tensorrt"))
    if not plans and "CUDAExecutionProvider" not in packages["onnxruntime"].providers:
        what = f"no runtime here can use the {examined.system.gpu.name}"
        fix = "pip uninstall -y onnxruntime && pip install 'dinodeploy[cuda]'"
        yield Finding("warning", what, fix)


def _old_jetpack(examined: Examined) -> Iterator[Finding]:
    jetpack = examined.system.jetpack
    if jetpack is not None and int(jetpack) < _OLDEST_JETPACK:
        what = f"JetPack {jetpack} has a TensorRT older than 10.3, the first supported one"
        yield Finding("warning", what, "flash JetPack 6.1 or later", _JETPACK)


def _slow_cpu(examined: Examined) -> Iterator[Finding]:
    system, recipe = examined.system, examined.bundle.manifest.graph.recipe if examined.bundle else None
    if system.features is None:
        return
    if system.architecture in ("x86_64", "AMD64") and "AVX2" not in system.features:
        yield Finding("warning", "this CPU has no AVX2: graphs run many times slower", "use another machine")
    if recipe == "int8" and not {"AVX-VNNI", "AVX-512 VNNI", "AMX INT8", "dot product"} & {*system.features}:
        what = "this CPU has no int8 dot product instructions: fp32 may be as fast"
        yield Finding("note", what, "dinodeploy export --precision fp32")


def _fewer_cores_than_threads(examined: Examined) -> Iterator[Finding]:
    system = examined.system
    if system.cores_allowed < system.cores:
        allowed = max(1, math.ceil(system.cores_allowed))
        what = f"{system.cores} cores, and this process may use {system.cores_allowed:g}; more would wait"
        yield Finding("note", what, f"give embed and check --threads {allowed}")


RULES: tuple[Callable[[Examined], Iterator[Finding]], ...] = (
    _no_runtime,
    _bundle_runs,
    _plans_of_bad_versions,
    _known_bad,
    _too_old,
    _broken,
    _two_onnx_runtimes,
    _gpu_unseen,
    _gpu_without_runtime,
    _old_jetpack,
    _bundle_fits,
    _slow_cpu,
    _bundle_judged,
    _fewer_cores_than_threads,
)


def _split(message: str) -> tuple[str, str]:
    """Split an error line into the problem and, after its last semicolon, the fix."""
    what, semicolon, fix = message.rpartition("; ")
    return (what, fix) if semicolon else (message, "export or build it again")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
