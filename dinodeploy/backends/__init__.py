"""Backends: what runs an engine. One Protocol, one literal table; a vendor's SDK is imported on opening."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dinodeploy.errors import UnavailableError

Floats = NDArray[np.float32]


class Backend(Protocol):
    """One opened engine. `run` may be called from several threads at once."""

    runtime: str  # name and version, e.g. "onnxruntime 1.32.0"
    device: str  # what a receipt is valid for
    metadata: Mapping[str, str]  # the engine's own

    def run(self, pixels: Floats) -> dict[str, Floats]:
        """pixels [B,3,H,W] -> outputs by name."""
        ...

    def close(self) -> None: ...


BACKENDS: dict[str, str] = {
    "onnxruntime": "dinodeploy.backends.onnxruntime:OnnxRuntimeBackend",
}


def open_backend(name: str, engine: Path, **options: Any) -> Backend:
    """Open `engine` with the backend called `name`. Raises UnavailableError when there is none."""
    if name not in BACKENDS:
        raise UnavailableError(
            f"engine {engine.name} needs the backend {name!r}; this version has: {', '.join(BACKENDS)}"
        )
    module, _, attribute = BACKENDS[name].partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)(engine, **options)
    return backend
