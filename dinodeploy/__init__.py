"""dinodeploy: DINOv3 in production, verified against the reference before it is used.

    import dinodeploy

    bundle = dinodeploy.export("model.safetensors", out="bundle")                      # needs torch
    report = dinodeploy.embed(["photos/"], engine="bundle", out="embeddings")
    ids, vectors = dinodeploy.load_embeddings("embeddings")
    report = dinodeploy.predict(["photos/"], engine="bundle-with-head", out="predictions")
    with dinodeploy.Embedder.open("bundle") as embedder:
        vector = embedder.encode("cat.jpg")                                            # float32 [D]

`import dinodeploy` loads neither torch, onnxruntime, tensorrt nor numpy: each name loads what it needs at
first use.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from dinodeploy.errors import (
    BundleError,
    DinodeployError,
    ExportError,
    HubError,
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
    from dinodeploy.api import EmbedReport, embed, export, export_transformers, predict
    from dinodeploy.bundle.bundle import Bundle
    from dinodeploy.bundle.layout import TransformersFolder
    from dinodeploy.embedder import Embedder
    from dinodeploy.store.merge import merge
    from dinodeploy.store.reader import load_embeddings
    from dinodeploy.tasks.predict import PredictReport
    from dinodeploy.text.zero_shot import classify, segment

# Telemetry of ONNX Runtime and of the Hugging Face libraries, which read it when they are imported. A
# setting of the user is kept; `hardware/telemetry.py` silences the packages that read no variable.
for _variable in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "1")

__version__ = "0.1.0"

__all__ = [
    "export",
    "export_transformers",
    "embed",
    "predict",
    "classify",
    "segment",
    "Embedder",
    "load_embeddings",
    "merge",
    "Bundle",
    "EmbedReport",
    "PredictReport",
    "TransformersFolder",
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
    "HubError",
]

# Names that import numpy and Pillow, loaded at first use (PEP 562).
_LAZY = {
    "export": "dinodeploy.api",
    "export_transformers": "dinodeploy.api",
    "embed": "dinodeploy.api",
    "EmbedReport": "dinodeploy.api",
    "predict": "dinodeploy.api",
    "PredictReport": "dinodeploy.tasks.predict",
    "classify": "dinodeploy.text.zero_shot",
    "segment": "dinodeploy.text.zero_shot",
    "Bundle": "dinodeploy.bundle.bundle",
    "TransformersFolder": "dinodeploy.bundle.layout",
    "Embedder": "dinodeploy.embedder",
    "load_embeddings": "dinodeploy.store.reader",
    "merge": "dinodeploy.store.merge",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
