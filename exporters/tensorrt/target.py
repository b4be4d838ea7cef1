"""Which TensorRT builds an engine: the table of targets, and importing their modules.

tensorrt   builds on the GPU that the plan will run on
rtx        builds on any machine; the user's RTX GPU compiles the plan just in time
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dinodeploy.backends.tensorrt.refuse import rtx_runs_on
from dinodeploy.errors import MisuseError, UnavailableError, reason_of
from exporters.tensorrt.api import TensorRT
from exporters.tensorrt.device import Gpu, find_gpu

AUTO = "auto"


@dataclass(frozen=True)
class Target:
    """A kind of TensorRT and its limits."""

    name: str
    module: str  # also the name of the backend that runs its plans
    oldest: tuple[int, int]
    install: str
    builds_without_gpu: bool
    lacks: Mapping[str, str]  # field of BuildOptions -> why it is not supported
    gpu_only: tuple[str, ...] = ()  # fields of BuildOptions that need a GPU at build time


TARGETS: dict[str, Target] = {
    "tensorrt": Target(
        "tensorrt",
        "tensorrt",
        oldest=(10, 3),
        install="pip install tensorrt, or the packages of JetPack on a Jetson",
        builds_without_gpu=False,
        lacks={"compute_capabilities": "it builds for this machine's GPU; --hardware-compatible adds others"},
    ),
    "rtx": Target(
        "rtx",
        "tensorrt_rtx",
        oldest=(1, 7),
        install="pip install tensorrt-rtx",
        builds_without_gpu=True,
        lacks={
            "timing_cache": "it times no kernels while it builds",
            "hardware_compatible": "its plans run on every RTX GPU; use --compute-capability to choose some",
            "version_compatible": "it comes without the lean runtime that this needs",
        },
        # measured with 1.7.1: refit needs the CUDA driver at build time
        gpu_only=("refit", "strip_plan"),
    ),
}


def load_target(name: str, gpu: Gpu | None) -> tuple[Target, TensorRT]:
    """The target called `name` and its module, imported.

    `auto`: TensorRT if it is installed and there is a GPU, else TensorRT-RTX if it is installed and has
    kernels for the GPU, if there is one. Raises
    MisuseError for an unknown name, UnavailableError if the module is missing, broken or too old, or needs a
    GPU.
    """
    target = _choose(gpu) if name == AUTO else find_target(name)
    trt = _import(target)
    version = version_of(trt)
    if version < target.oldest:
        oldest = ".".join(map(str, target.oldest))
        raise UnavailableError(
            f"{target.module} is {trt.__version__}; wanted {oldest} or later: {target.install}"
        )
    if gpu is None and not target.builds_without_gpu:
        raise UnavailableError(
            f"{target.module} builds on the GPU that the engine is for, and this machine has no GPU; build "
            "on that machine, or with --target rtx for RTX GPUs"
        )
    return target, trt


def find_target(name: str) -> Target:
    """The target called `name`. Raises MisuseError for an unknown one."""
    if name not in TARGETS:
        raise MisuseError(f"--target {name!r} is unknown; known: {', '.join((AUTO, *TARGETS))}")
    return TARGETS[name]


def builds_here(name: str, gpu: Gpu | None) -> bool:
    """Whether `name`'s module is installed, and builds what this machine can run; imports nothing."""
    target = TARGETS[name]
    runs = (
        rtx_runs_on(gpu)
        if gpu is not None and name == "rtx"
        else target.builds_without_gpu or gpu is not None
    )
    return importlib.util.find_spec(target.module) is not None and runs


def automatic_target() -> str | None:
    """The target that an export builds for by default: TensorRT if it is installed and there is a GPU.

    Never TensorRT-RTX: it builds on every machine and would slow down every export.
    """
    return "tensorrt" if builds_here("tensorrt", find_gpu()) else None


def version_of(trt: TensorRT) -> tuple[int, int]:
    """(major, minor) of a module."""
    numbers = re.findall(r"\d+", str(trt.__version__))
    return int(numbers[0]), int(numbers[1])


def _choose(gpu: Gpu | None) -> Target:
    for name, target in TARGETS.items():
        if builds_here(name, gpu):
            return target
    if gpu is not None and not rtx_runs_on(gpu):
        raise UnavailableError(
            f"TensorRT is not installed, and TensorRT-RTX has no kernels for {gpu.name} (compute capability "
            f"{gpu.compute_capability}); {TARGETS['tensorrt'].install}"
        )
    ways = "; ".join(f"{target.name}: {target.install}" for target in TARGETS.values())
    raise UnavailableError(f"no TensorRT that can build here is installed; {ways} (rtx needs no GPU)")


def _import(target: Target) -> TensorRT:
    try:
        return importlib.import_module(target.module)
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"building for {target.name} needs {error.name}, which is not installed: {target.install}"
        ) from error
    except Exception as error:  # loading a vendor's libraries may raise any class
        raise UnavailableError(
            f"{target.module} cannot be imported ({reason_of(error)}); install it again: {target.install}"
        ) from error
