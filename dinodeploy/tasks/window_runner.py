"""Run a model that reads square windows on whole images: cut, run, and group the outputs by image.

Shapes: B images, n windows of each, H W the resized image, S side of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.backends import Backend
from dinodeploy.bundle.bundle import EngineChoice
from dinodeploy.images.windows import Windows
from dinodeploy.pipeline.runner import BATCH_SIZE, Runner


@dataclass(frozen=True)
class WindowRunner:
    """An opened engine whose images are preprocessed by `windows`. batch: windows per run, at most."""

    inner: Runner
    windows: Windows
    batch: int = BATCH_SIZE

    @property
    def engine(self) -> EngineChoice:
        return self.inner.engine

    @property
    def backend(self) -> Backend:
        return self.inner.backend

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.inner.output_names

    def run(self, pixels: Any, *, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Resized images [B,3,H,W] of one size -> one array [B,n,...] per output."""
        cut = np.stack([self.windows.cut(image) for image in pixels])
        flat = cut.reshape(-1, *cut.shape[2:])
        parts = [
            self.inner.run(flat[start : start + self.batch], outputs=outputs)
            for start in range(0, len(flat), self.batch)
        ]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {name: array.reshape(*cut.shape[:2], *array.shape[1:]) for name, array in joined.items()}
