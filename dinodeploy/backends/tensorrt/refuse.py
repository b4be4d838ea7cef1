"""Refuse a plan that was built for another machine or runtime, before anything is deserialised.

A plan is native code for one runtime and one kind of GPU. TensorRT's own answer to a foreign one is a null
engine and a line in a log; here it is one line with both sides and the command that fixes it.

Rules (TensorRT's developer guide, "Version Compatibility" and "Hardware Compatibility"):

    runtime version      the same to the last digit; a version-compatible plan: the same major, not older
    compute capability   one of those it was built for; `ampere_plus`: 8.0 or newer; none named: the default
                         set of TensorRT-RTX (docs.nvidia.com/deeplearning/tensorrt-rtx, "Support Matrix")
    driver               not older than the build machine's: CUDA's drivers run what older ones ran
"""

from __future__ import annotations

import re
from pathlib import Path

from dinodeploy.bundle.manifest import CLS_PLAN, BuildFacts
from dinodeploy.errors import UnavailableError
from dinodeploy.hardware.devices import Gpu, is_jetson

# module -> `dinodeploy build --target`
TARGETS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
_AMPERE = (8, 0)
# Compute capabilities that TensorRT-RTX has kernels for, and those of a plan that names none. Not among them:
# 8.0 (A100), 8.7 (Orin), 9.0 (H100, H200), 10.0 (B200), 11.0 (Thor).
RTX_CAPABILITIES = ("7.5", "8.6", "8.9", "12.0", "12.1")
RTX_DEFAULT = ("8.6", "8.9", "12.0")


def rtx_runs_on(gpu: Gpu) -> bool:
    """Whether TensorRT-RTX has kernels for a GPU."""
    return gpu.compute_capability in RTX_CAPABILITIES


def install_command(package: str) -> str:
    """What to install for plans of `tensorrt` or `tensorrt-rtx` on this machine."""
    if is_jetson():
        return (
            "sudo apt-get install python3-libnvinfer, and dinodeploy with cuda-python in a virtual "
            "environment made with --system-site-packages (docs/jetson.md)"
        )
    return f"pip install 'dinodeploy[{package}]'"


def rebuild_command(plan: Path, module: str, more: str = "") -> str:
    """The command that builds `plan` again, here."""
    stem = plan.name.removesuffix(CLS_PLAN).removesuffix(".plan")
    which = "" if stem == "model" else f" --name {stem}"
    which += " --cls-only" if plan.name.endswith(CLS_PLAN) else ""
    return f"dinodeploy build {plan.parent} --target {TARGETS[module]}{which}{more} --overwrite"


def check_build(build: BuildFacts, module: str, version: str, gpu: Gpu, plan: Path) -> None:
    """Compare what the manifest says of `plan` with this machine. Raises UnavailableError, one line."""
    wrong = _wrong_runtime(build, module, version) or _wrong_capability(build, gpu)
    if wrong := wrong or _wrong_driver(build, gpu):
        here = "tensorrt" if module == "tensorrt_rtx" and not rtx_runs_on(gpu) else module
        raise UnavailableError(f"{plan.name} {wrong}; build it here: {rebuild_command(plan, here)}")


def _wrong_runtime(build: BuildFacts, module: str, version: str) -> str | None:
    name, _, built = build.runtime.partition(" ")
    if name == module and built == version:
        return None
    if name == module and build.version_compatible:
        here, there = numbers(version), numbers(built)
        if here[:1] == there[:1] and here >= there:
            return None
        return f"was built by {build.runtime} for it and later ones of its major version, here is {version}"
    return f"was built by {build.runtime}, here is {module} {version}"


def _wrong_capability(build: BuildFacts, gpu: Gpu) -> str | None:
    here, wanted = gpu.compute_capability, build.compute_capabilities
    if not wanted and build.runtime.startswith("tensorrt_rtx"):  # built by a version that did not note them
        wanted = RTX_DEFAULT
    if not wanted or here in wanted:
        return None
    if build.hardware_compatible == "ampere_plus":
        if numbers(here) >= _AMPERE:
            return None
        return f"was built for compute capability 8.0 and newer, {gpu.name} has {here}"
    return f"was built for compute capability {', '.join(wanted)}, {gpu.name} has {here}"


def _wrong_driver(build: BuildFacts, gpu: Gpu) -> str | None:
    if build.driver is None or _kind(build.driver) != _kind(gpu.driver):
        return None  # built without a GPU, or the two systems name drivers in ways that cannot be compared
    if numbers(gpu.driver) >= numbers(build.driver):
        return None
    return f"was built with driver {build.driver}, here is the older {gpu.driver}: update the driver"


def _kind(driver: str) -> bool:
    return driver.startswith("CUDA")


def numbers(version: str) -> tuple[int, ...]:
    """`10.3.0.post1` -> (10, 3, 0, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
