"""Run pixels of a caller on an opened engine: check them, run, and give the outputs by name.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from dinodeploy.arrays import FloatArray
from dinodeploy.backends import Backend
from dinodeploy.bundle.bundle import EngineChoice
from dinodeploy.images.inputs import as_pixels, run_fixed


def run_pixels(
    engine: EngineChoice, backend: Backend, pixels: Any, names: Sequence[str]
) -> dict[str, FloatArray]:
    """Normalised pixels [B,3,H,W], or bytes [B,H,W,3] -> the outputs `names`. Raises as `Embedder.run`."""
    manifest = engine.manifest
    engine.check_outputs(names)
    head = manifest.head
    array = as_pixels(pixels, manifest.preprocess, 1 if head is None else head.least_side)
    run = backend.run if tuple(names) == engine.outputs else partial(backend.run, outputs=names)
    if fixed := manifest.graph.fixed:
        return run_fixed(run, array, fixed, manifest.preprocess)
    return run(array)
