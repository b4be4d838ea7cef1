"""Backends run engines: one Protocol, one literal table. A vendor's SDK is imported when an engine is opened.

Shapes: B batch, H W input pixels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from dinodeploy.arrays import AnyArray, FloatArray
from dinodeploy.backends.gpu_arrays import GpuArray, GpuPixels
from dinodeploy.bundle.manifest import BuildFacts
from dinodeploy.errors import MisuseError, UnavailableError

Hint = Literal["latency", "throughput"]


class Backend(Protocol):
    """An opened engine. `run` may be called from several threads in parallel."""

    runtime: str  # name and version, e.g. "onnxruntime 1.32.0"
    device: str  # as receipts name it
    metadata: Mapping[str, str]  # of the ONNX file; empty for a plan
    parallel_runs: int  # how many parallel calls of `run` pay off

    def takes(self, height: int, width: int) -> bool:
        """Whether the engine accepts inputs of H x W pixels."""
        ...

    def run(self, pixels: AnyArray, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """pixels, contiguous -> outputs by name: those named, by default all.

        Pixels are [B,3,H,W], or bytes [B,H,W,3] of a graph that takes them.
        """
        ...

    @property
    def gpu(self) -> GpuBackend | None:
        """Itself, if it takes and gives arrays in GPU memory."""
        ...

    def close(self) -> None: ...


class GpuBackend(Protocol):
    """What a backend on a GPU can do beside. Its `run` takes `GpuPixels` too."""

    def borrow(self, array: Any, stream: int | None = None) -> GpuPixels:
        """A GPU array of another library as input, ordered after `stream`, or by what its library says."""
        ...

    def run_on_gpu(
        self, pixels: AnyArray | GpuPixels, outputs: Sequence[str] | None = None, caller: int | None = None
    ) -> dict[str, GpuArray]:
        """As `run`, with outputs that stay on the GPU. caller: a stream that is made to wait for them."""
        ...


@dataclass(frozen=True)
class OpenOptions:
    """How to open an engine. Raises MisuseError when created with a wrong value."""

    threads: int | None = None  # of a CPU runtime; None: its default
    hint: Hint = "latency"  # CPU threads: all on one run, or one run per thread ("throughput")
    build: BuildFacts | None = None  # of a plan, from the manifest
    weight_budget: int | None = None  # bytes on the GPU, for a weight-streaming plan

    def __post_init__(self) -> None:
        if self.hint not in get_args(Hint):
            raise MisuseError(f"hint is {self.hint!r}; wanted latency or throughput")
        if self.weight_budget is not None and self.weight_budget < 0:
            raise MisuseError(f"the weight budget is {self.weight_budget} bytes; wanted 0 or more")


Opener = Callable[[Path, OpenOptions], Backend]

BACKENDS: dict[str, str] = {
    "onnxruntime": "dinodeploy.backends.onnxruntime:open_cpu",
    "onnxruntime_cuda": "dinodeploy.backends.onnxruntime:open_cuda",
    "openvino": "dinodeploy.backends.openvino:OpenVinoBackend",
    "tensorrt": "dinodeploy.backends.tensorrt:open_tensorrt",
    "tensorrt_rtx": "dinodeploy.backends.tensorrt:open_tensorrt_rtx",
}
# What refuses an engine by its facts and this machine alone, before its files are fetched from anywhere.
CHECKS: dict[str, str] = {
    "onnxruntime_cuda": "dinodeploy.backends.onnxruntime:check_cuda",
    "tensorrt": "dinodeploy.backends.tensorrt:check_tensorrt",
    "tensorrt_rtx": "dinodeploy.backends.tensorrt:check_tensorrt_rtx",
}


def check_backend(name: str, engine: Path, build: BuildFacts | None) -> None:
    """Raise UnavailableError where this machine cannot run `engine`, which need not be there yet."""
    if name in CHECKS:
        _find(CHECKS[name])(engine, build)


def open_backend(name: str, engine: Path, **options: Any) -> Backend:
    """Open `engine` with the backend called `name`; `options` are `OpenOptions`'.

    Raises UnavailableError when this version has no such backend or this machine cannot run it, BundleError
    for a file that the runtime cannot load.
    """
    if name not in BACKENDS:
        raise UnavailableError(
            f"engine {engine.name} needs the backend {name!r}; this version has: {', '.join(BACKENDS)}"
        )
    opener: Opener = _find(BACKENDS[name])
    return opener(engine, OpenOptions(**options))


def _find(where: str) -> Any:
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)
