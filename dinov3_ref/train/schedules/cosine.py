"""Cosine schedules with warm-up, and learning-rate scaling by batch size (docs/spec.md 4.9).

Schedules are fp64 arrays with one value per iteration.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dinov3_ref.errors import ConfigError

Values = NDArray[np.float64]


class CosineScheduler:
    """Schedule v1: zeros, a linear warm-up to `base_value`, then a cosine towards `final_value`.

    `schedule[i]` is the value of iteration i. Value i of the n cosine values is
    final + (base - final) / 2 · (1 + cos(π i / n)): it does not reach `final_value`, which holds from
    `total_iters` on. With `trunc_extra` the cosine is computed for (1 + trunc_extra) · n values, cut after n
    and rescaled to end at `final_value`. Raises `ConfigError` if freeze and warm-up exceed `total_iters`.
    """

    def __init__(
        self,
        base_value: float,
        final_value: float,
        total_iters: int,
        warmup_iters: int = 0,
        start_warmup_value: float = 0.0,
        freeze_iters: int = 0,
        trunc_extra: float = 0.0,
    ) -> None:
        cosine_iters = total_iters - warmup_iters - freeze_iters
        if cosine_iters < 0:
            raise ConfigError(
                f"a schedule of {total_iters} iterations has {freeze_iters} frozen and {warmup_iters} "
                "warm-up iterations; shorten those or raise optim.epochs"
            )
        self.final_value = final_value
        self.total_iters = total_iters
        planned = int((1 + trunc_extra) * cosine_iters)
        fall = (1 + np.cos(np.pi * np.arange(cosine_iters) / max(planned, 1))) / 2  # falls from 1
        if trunc_extra > 0 and cosine_iters > 1:
            fall = (fall - fall[-1]) / (1 - fall[-1])
        self.schedule: Values = np.concatenate(
            [
                np.zeros(freeze_iters),
                np.linspace(start_warmup_value, base_value, warmup_iters),
                final_value + (base_value - final_value) * fall,
            ]
        )

    def __getitem__(self, iteration: int) -> float:
        return self.final_value if iteration >= self.total_iters else float(self.schedule[iteration])


def linear_warmup_cosine_decay(
    start: float,
    peak: float,
    end: float,
    warmup_iterations: int,
    total_iterations: int,
    cosine_iterations: int | None = None,
) -> Values:
    """Schedule v2: linear from `start` to `peak` (right after the warm-up), cosine to `end`, constant.

    Returns `total_iterations` values; unlike v1, the last cosine value is `end`. `cosine_iterations` defaults
    to all iterations after the warm-up. Raises `ConfigError` if warm-up and cosine exceed the total.
    """
    left = total_iterations - warmup_iterations
    cosine = left if cosine_iterations is None else cosine_iterations
    if not 0 <= cosine <= left:
        raise ConfigError(
            f"a schedule of {total_iterations} iterations has {warmup_iterations} warm-up and {cosine} "
            "cosine iterations; shorten those or raise optim.epochs"
        )
    return np.concatenate(
        [
            np.linspace(start, peak, warmup_iterations, endpoint=False),
            (peak - end) * (1 + np.cos(np.linspace(0, np.pi, cosine))) / 2 + end,
            np.full(left - cosine, end, dtype=np.float64),
        ]
    )


def scale_learning_rate(lr: float, rule: str, global_batch_size: int) -> float:
    """Learning rate for a global batch size; sqrt_wrt_1024 multiplies by 4 · sqrt(batch / 1024).

    Source: docs/spec.md 0, fact 16.
    """
    factors = {
        "none": 1.0,
        "linear_wrt_256": global_batch_size / 256,
        "sqrt_wrt_1024": 4 * math.sqrt(global_batch_size / 1024),
    }
    if rule not in factors:
        raise ConfigError(f"optim.scaling_rule is {rule!r}; wanted one of {', '.join(factors)}")
    return lr * factors[rule]
