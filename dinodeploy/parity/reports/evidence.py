"""The error of every patch of the image that is furthest off.

This runs the engine once more, so only the HTML report uses it. Shapes: B batch, H W pixels, h w patch grid,
D embed_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import ByteArray, FloatArray
from dinodeploy.bundle.bundle import GOLDEN_FILE, EngineChoice
from dinodeploy.embedder import Embedder
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import GoldenCase, load_golden
from dinodeploy.parity.judge import Verdict

OUTPUT = "patch"


@dataclass(frozen=True)
class PatchErrors:
    """‖got - wanted‖ / ‖wanted‖ of each patch of one image."""

    case: str
    image: ByteArray  # [H,W,3], as the model sees it
    errors: NDArray[np.float64]  # [h,w]; NaN where not finite


def worst_patches(engine: EngineChoice, verdict: Verdict) -> PatchErrors | None:
    """Run the case with the largest patch error. None where the engine has no patch output of that shape."""
    cases = {case.name: case for case in load_golden(engine.root / GOLDEN_FILE)}
    case = cases[_worst_case(verdict)]
    with Embedder.open(engine.path, allow_unverified=True) as embedder:
        got = embedder.run(case.pixels).get(OUTPUT)
    if got is None or got.shape != case.outputs[OUTPUT].shape:
        return None
    return patch_errors(case, got, engine.manifest.preprocess)


def patch_errors(case: GoldenCase, got: FloatArray, preprocess: Preprocess) -> PatchErrors:
    """The image of `case` with the largest error in `got` [B,h,w,D]."""
    wanted = case.outputs[OUTPUT].astype(np.float64)
    lengths = np.linalg.norm(wanted, axis=-1)
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.linalg.norm(got - wanted, axis=-1) / np.where(lengths > 0, lengths, 1.0)
    errors[~np.isfinite(errors)] = np.nan
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors).max(axis=(1, 2))))
    grey = case.pixels[worst].transpose(1, 2, 0) * np.array(preprocess.std) + np.array(preprocess.mean)
    return PatchErrors(case.name, np.clip(grey * 255 + 0.5, 0, 255).astype(np.uint8), errors[worst])


def _worst_case(verdict: Verdict) -> str:
    """The case with the largest relative patch error; a value that is not finite counts as larger."""
    found = [m for m in verdict.measurements if m.output == OUTPUT and m.metric != "max_abs"]
    worst = max(
        (m for m in found if m.metric == "relative_frobenius" or m.value is None),
        key=lambda m: np.inf if m.value is None else m.value,
    )
    return worst.case
