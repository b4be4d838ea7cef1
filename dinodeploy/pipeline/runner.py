"""What the pipeline needs of an opened engine: `Embedder` is one, and so are the fakes of tests.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from dinodeploy.arrays import FloatArray
from dinodeploy.backends import Backend
from dinodeploy.bundle.bundle import EngineChoice

BATCH_SIZE = 8

OnError = Literal["raise", "skip", "nan"]


class Skipped(NamedTuple):
    """An image without an embedding: its number among the images given, and why."""

    number: int
    reason: str


class Runner(Protocol):
    """An opened engine."""

    engine: EngineChoice
    backend: Backend

    @property
    def output_names(self) -> tuple[str, ...]: ...

    def run(self, pixels: Any, *, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Normalised pixels [B,3,H,W], or bytes [B,H,W,3] -> one array per output."""
