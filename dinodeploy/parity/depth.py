"""How a depth map is compared with the reference's, where rounding alone may change it.

The canopy-height head divides by the sum of its positive activations (docs/spec.md 5.6). Where all of a
pixel's activations are negative or nearly zero, rounding decides which bin it falls into. Such pixels are
wrong in every precision, and a limit for good pixels would reject right graphs. So the export measures the
reference's own conditioning: in fp32 against itself in fp64, and in fp64 with features disturbed by as much
as the recipe may round. A limit grows with it, up to a cap that real faults exceed.

    depth_error      |got - wanted| / |wanted|, over the whole map
    depth_median     median over pixels of the relative error: a fault in every pixel, such as other bins
    depth_variation  |got - wanted| / |wanted - its mean|: a fault in the few pixels that vary, such as
                     another block, where all others have the same value

Shapes: B batch, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.facts import HeadFacts
from dinodeploy.parity.thresholds import Threshold

CONDITION = "condition"  # in the settings of a head: recipe -> metric -> the reference's own value
MARGIN = 4.0  # times its own conditioning
FLAT = 1e-2  # of a map's size: a smaller variation counts as this

# recipe -> limit of each metric, and the worst measured on well-conditioned heads, lively and planted models.
# Faults: in the bins a median of 4e-2 or more, elsewhere a variation of 0.4 or more
# (tests/exporters/heads/test_canopy.py).
METRICS = ("depth_error", "depth_median", "depth_variation")
CAPS = (0.1, 2e-2, 0.3)  # of scaled limits
_LIMITS: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("fp32", (1e-5, 1e-5, 3e-4), (2e-7, 2e-7, 4e-6)),
    ("fp16", (1e-2, 1e-2, 5e-2), (2e-4, 1e-4, 4e-3)),
    ("bf16", (5e-2, 2e-2, 0.3), (2e-3, 1e-3, 4e-2)),
    ("bf16-residual", (5e-2, 2e-2, 0.3), (2e-3, 1e-3, 4e-2)),  # held to bf16's
    ("int8", (0.15, 0.1, 0.6), (1e-2, 1e-2, 0.2)),
    ("fp8", (0.25, 0.1, 0.6), (2e-2, 2e-2, 0.2)),
)
DEPTH_THRESHOLDS: dict[str, tuple[Threshold, ...]] = {
    recipe: tuple(Threshold(*row) for row in zip(METRICS, limits, measured, strict=True))
    for recipe, limits, measured in _LIMITS
}


def compare_depth(got: FloatArray, wanted: FloatArray) -> dict[str, float]:
    """The metrics of two maps [B,1,H,W] of positive depths."""
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    difference = got - wanted
    size, error = float(np.linalg.norm(wanted)), float(np.linalg.norm(difference))
    varied = float(np.linalg.norm(wanted - wanted.mean(axis=(1, 2, 3), keepdims=True)))
    values = (
        error / size,
        float(np.median(np.abs(difference) / np.abs(wanted))),
        error / max(varied, FLAT * size),
    )
    return dict(zip(METRICS, values, strict=True))


def measure_depth(
    got: Mapping[str, FloatArray], wanted: Mapping[str, FloatArray], head: HeadFacts
) -> dict[str, dict[str, float]]:
    """The metrics of each output of a head, and how well-conditioned its reference is."""
    own = head.settings[CONDITION].get("fp32", {})
    reported = {"condition": float(own.get("depth_error", 0.0))}
    return {name: {**compare_depth(got[name], wanted[name]), **reported} for name in head.outputs}


def has_condition(head: HeadFacts) -> bool:
    """Whether the export measured the conditioning of a depth head."""
    return head.task == "depth" and CONDITION in head.settings


def scale_limits(limits: tuple[Threshold, ...], head: HeadFacts, recipe: str) -> tuple[Threshold, ...]:
    """Limits that grow with the reference's own conditioning under `recipe`, up to their caps."""
    own = head.settings[CONDITION].get(recipe, {})
    return tuple(
        replace(one, limit=max(one.limit, min(cap, MARGIN * float(own.get(one.metric, 0.0)))))
        for one, cap in zip(limits, CAPS, strict=True)
    )
