"""dinodeploy: DINOv3 in production, proven equal to the reference before it is used.

    from dinodeploy import Embedder, load_embeddings

Importing this package loads neither torch, onnxruntime nor tensorrt, and not even numpy; opening an engine
loads its runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dinodeploy.errors import (
    BundleError,
    DinodeployError,
    ExportError,
    ImageError,
    JudgementError,
    LintError,
    MisuseError,
    OutputExistsError,
    OutsideProfileError,
    TamperedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from dinodeploy.embedder import Embedder
    from dinodeploy.store.reader import load_embeddings

__version__ = "0.1.0"

__all__ = [
    "Embedder",
    "load_embeddings",
    "DinodeployError",
    "MisuseError",
    "OutputExistsError",
    "OutsideProfileError",
    "ImageError",
    "BundleError",
    "TamperedError",
    "JudgementError",
    "ExportError",
    "LintError",
    "UnavailableError",
]

# Names that cost numpy and Pillow: loaded when first asked for (PEP 562).
_LATE = {"Embedder": "dinodeploy.embedder", "load_embeddings": "dinodeploy.store.reader"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATE[name]), name)
    globals()[name] = value
    return value
