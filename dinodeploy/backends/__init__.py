"""Backends: what runs an engine. One Protocol, one literal table; a vendor's SDK is imported on opening.

Shapes: B batch, H W input pixels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.manifest import BuildFacts
from dinodeploy.errors import MisuseError, UnavailableError

Hint = Literal["latency", "throughput"]


class Backend(Protocol):
    """One opened engine. `run` may be called from several threads at once."""

    runtime: str  # name and version, e.g. "onnxruntime 1.32.0"
    device: str  # what a receipt is valid for
    metadata: Mapping[str, str]  # the engine's own; a plan has none
    lanes: int  # how many runs at once are worth it

    def takes(self, height: int, width: int) -> bool:
        """Whether inputs of H x W pixels can be run."""
        ...

    def run(self, pixels: FloatArray) -> dict[str, FloatArray]:
        """pixels [B,3,H,W], contiguous -> outputs by name."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class OpenOptions:
    """How to open an engine. Validated at birth: MisuseError."""

    threads: int | None = None  # of a CPU runtime; None: its own choice
    hint: Hint = "latency"  # a CPU's threads all work on one run, or each on a run of its own ("throughput")
    build: BuildFacts | None = None  # what a plan was built by and for, from the manifest
    weight_budget: int | None = None  # bytes of weights kept on the GPU by a weight-streaming plan

    def __post_init__(self) -> None:
        if self.hint not in get_args(Hint):
            raise MisuseError(f"hint is {self.hint!r}; wanted latency or throughput")
        if self.weight_budget is not None and self.weight_budget < 0:
            raise MisuseError(f"the weight budget is {self.weight_budget} bytes; wanted 0 or more")


Opener = Callable[[Path, OpenOptions], Backend]

BACKENDS: dict[str, str] = {
    "onnxruntime": "dinodeploy.backends.onnxruntime:open_cpu",
    "onnxruntime_cuda": "dinodeploy.backends.onnxruntime:open_cuda",
    "onnxruntime_tensorrt": "dinodeploy.backends.onnxruntime:open_tensorrt",
    "openvino": "dinodeploy.backends.openvino:open_openvino",
    "tensorrt": "dinodeploy.backends.tensorrt:open_tensorrt",
    "tensorrt_rtx": "dinodeploy.backends.tensorrt:open_tensorrt_rtx",
}


def open_backend(name: str, engine: Path, **options: Any) -> Backend:
    """Open `engine` with the backend called `name`; `options` are `OpenOptions`'.

    Raises UnavailableError when there is none or this machine cannot run it, BundleError for a file that
    the runtime cannot load.
    """
    if name not in BACKENDS:
        raise UnavailableError(
            f"engine {engine.name} needs the backend {name!r}; this version has: {', '.join(BACKENDS)}"
        )
    module, _, attribute = BACKENDS[name].partition(":")
    opener: Opener = getattr(importlib.import_module(module), attribute)
    return opener(engine, OpenOptions(**options))
