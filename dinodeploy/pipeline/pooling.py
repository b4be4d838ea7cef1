"""Outputs that are computed from the engine's: the mean of the patches, and CLS beside it.

    mean_patch   [D]    the mean of a picture's patch tokens
    pooled       [2D]   [cls; mean_patch], what DINOv3's linear probes take

Source: docs/spec.md 5.2. Sums run in float64 picture by picture, so that they do not depend on the batch.

Shapes: B batch, h, w patch grid, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dinodeploy.arrays import FloatArray

Outputs = dict[str, FloatArray]


def mean_patch(outputs: Outputs) -> FloatArray:
    """patch [B,h,w,D] -> [B,D]."""
    maps = outputs["patch"]
    rows = [patches.reshape(-1, maps.shape[-1]).mean(axis=0, dtype=np.float64) for patches in maps]
    return np.stack(rows).astype(np.float32)


def pooled(outputs: Outputs) -> FloatArray:
    """cls [B,D] and patch [B,h,w,D] -> [B,2D]."""
    return np.concatenate([outputs["cls"], mean_patch(outputs)], axis=1)


POOLED: dict[str, Callable[[Outputs], FloatArray]] = {"mean_patch": mean_patch, "pooled": pooled}
NEEDS = {"mean_patch": ("patch",), "pooled": ("cls", "patch")}


def with_pooled(names: Sequence[str]) -> tuple[str, ...]:
    """An engine's outputs and what can be computed from them."""
    possible = POOLED if {"cls", "patch"} <= set(names) else ()
    return (*names, *(name for name in possible if name not in names))


def needed(names: Sequence[str]) -> tuple[str, ...]:
    """What the engine has to put out for the outputs called `names`, each once."""
    return tuple(dict.fromkeys(one for name in names for one in NEEDS.get(name, (name,))))


def pick(outputs: Outputs, names: Sequence[str]) -> Outputs:
    """The outputs called `names`, [B, ...] each."""
    return {name: outputs[name] if name in outputs else POOLED[name](outputs) for name in names}
