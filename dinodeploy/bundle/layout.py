"""The result of `dinodeploy export --layout transformers`: a folder in another library's layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BUNDLE, TRANSFORMERS = "bundle", "transformers"
LAYOUTS = (BUNDLE, TRANSFORMERS)


@dataclass(frozen=True)
class JudgedGraph:
    """A graph of the folder, and what the judge measured on it."""

    file: str  # onnx/model.onnx
    precision: str
    bytes: int  # with its weights
    relative_error: float  # largest relative Frobenius error of an output
    cosine: float  # smallest cosine of a token
    runtime: str  # which the judge ran it on


@dataclass(frozen=True)
class TransformersFolder:
    """A folder that transformers.js, optimum and ONNX Runtime load. Each graph has passed the judge."""

    root: Path
    graphs: tuple[JudgedGraph, ...]
    notes: tuple[str, ...] = ()  # what the export assumed
