"""Run TensorRT plans. One implementation for TensorRT 10.3 to 11.x and TensorRT-RTX 1.7 and later.

    refuse.py    refuse a plan built for another machine or runtime, before anything is loaded
    load.py      plan -> engine: deserialise, refit a stripped one, set the budget of streamed weights
    profiles.py  which shape profile takes an input
    cuda.py      memory, streams, events and graphs through cuda-bindings, every error one line
    runtime_cache.py  kernels that TensorRT-RTX compiled, on disk
    context.py   an execution context aimed at one input shape, replayed as a CUDA graph
    stream.py    one CUDA stream with its buffers: copy in, compute, copy out
    backend.py   the backend: two streams, so that the copies of one batch overlap the other's compute

TensorRT's and CUDA's modules are imported when a plan is opened.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from dinodeploy.backends import OpenOptions
from dinodeploy.backends.tensorrt.backend import TensorRTBackend
from dinodeploy.backends.tensorrt.cuda import Cuda, import_cuda
from dinodeploy.backends.tensorrt.refuse import TARGETS, check_build, install_command
from dinodeploy.bundle.manifest import BuildFacts
from dinodeploy.errors import BundleError, UnavailableError, reason_of
from dinodeploy.hardware.devices import Gpu, find_gpu


def open_tensorrt(engine: Path, options: OpenOptions) -> TensorRTBackend:
    return open_plan("tensorrt", engine, options)


def open_tensorrt_rtx(engine: Path, options: OpenOptions) -> TensorRTBackend:
    return open_plan("tensorrt_rtx", engine, options)


def check_tensorrt(plan: Path, build: BuildFacts | None) -> None:
    _require("tensorrt", plan, build)


def check_tensorrt_rtx(plan: Path, build: BuildFacts | None) -> None:
    _require("tensorrt_rtx", plan, build)


def open_plan(name: str, plan: Path, options: OpenOptions) -> TensorRTBackend:
    """Open `plan` with the module `name`, once everything the manifest says of it fits this machine.

    Raises UnavailableError, one line with the command that fixes it, if something does not fit.
    """
    module, gpu = _require(name, plan, options.build)
    return TensorRTBackend(plan, options, module, Cuda(import_cuda()), gpu.device)


def _require(name: str, plan: Path, build: BuildFacts | None) -> tuple[Any, Gpu]:
    """The module and the GPU that run `plan`. Raises BundleError or UnavailableError."""
    if build is None:
        raise BundleError(
            f"{plan.name}: the manifest does not say what it was built by and for; "
            f"build it again: dinodeploy build {plan.parent} --overwrite"
        )
    gpu = find_gpu()
    module = _import_module(name)
    check_build(build, name, module.__version__, gpu, plan)
    return module, gpu


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # its libraries may be missing or of another CUDA
        package = name.replace("_", "-")
        raise UnavailableError(
            f"{name} cannot be imported ({reason_of(error)}); install it: {install_command(package)}, or use "
            f"another engine (this plan is for --target {TARGETS[name]})"
        ) from error
