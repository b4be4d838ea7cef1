"""Outputs computed from the engine's: the mean patch, and CLS with the mean patch.

    mean_patch   [D]    mean of an image's patch tokens
    pooled       [2D]   [cls; mean_patch], the input of DINOv3's linear probes (docs/spec.md 5.2)

Sums run in float64, image by image, so the result does not depend on the batch.

Shapes: B batch, h w patch grid, D embed_dim.
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
    """The engine's outputs, then those that can be computed from them."""
    possible = POOLED if {"cls", "patch"} <= set(names) else ()
    return (*names, *(name for name in possible if name not in names))


def needed(names: Sequence[str]) -> tuple[str, ...]:
    """The engine outputs needed to compute the outputs `names`, without repeats."""
    return tuple(dict.fromkeys(one for name in names for one in NEEDS.get(name, (name,))))


def pick(outputs: Outputs, names: Sequence[str]) -> Outputs:
    """The outputs `names`, each [B, ...]; pooled ones are computed."""
    return {name: outputs[name] if name in outputs else POOLED[name](outputs) for name in names}
