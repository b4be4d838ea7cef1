"""dinodeploy: DINOv3 in production, proven equal to the reference before it is used.

    from dinodeploy import Embedder, load_embeddings

Importing this package loads neither torch, onnxruntime nor tensorrt; opening an engine loads its runtime.
"""

from __future__ import annotations

from dinodeploy.embedder import Embedder
from dinodeploy.errors import (
    BundleError,
    DinodeployError,
    ExportError,
    ImageError,
    JudgementError,
    LintError,
    MisuseError,
    OutputExistsError,
    TamperedError,
    UnavailableError,
)
from dinodeploy.store import load_embeddings

__version__ = "0.1.0"

__all__ = [
    "Embedder",
    "load_embeddings",
    "DinodeployError",
    "MisuseError",
    "OutputExistsError",
    "ImageError",
    "BundleError",
    "TamperedError",
    "JudgementError",
    "ExportError",
    "LintError",
    "UnavailableError",
]
