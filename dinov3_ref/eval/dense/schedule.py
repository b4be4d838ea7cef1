"""Learning rate and first beta of the published dense evaluations (docs/spec.md 5.4, 5.6).

Warm-up, then a cosine from the largest learning rate almost to zero; the first beta of AdamW is 0 in the
warm-up and then rises from 0.85 to 0.95.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LOW_BETA, HIGH_BETA = 0.85, 0.95
FINAL = 1000.0  # the largest rate divided by it is the start of a warm-up without a ratio
END = 25.0 * FINAL  # the largest rate divided by it is the end


@dataclass(frozen=True)
class OneCycle:
    """The schedule of a run of `steps`. `warmup` is the share of the steps that warm up.

    ratio: 0 for the warm-up of depth; else the share of the rate at the start. lag: steps by which the
    schedule is behind.
    """

    rate: float
    steps: int
    warmup: float
    ratio: float = 0.0
    lag: int = 0

    def at(self, step: int) -> tuple[float, float]:
        """(learning rate, first beta) of a step, from 0."""
        step = max(0, step - self.lag)
        warmup = round(self.warmup * self.steps)
        if step < warmup:
            return self._warming(step, warmup), 0.0
        past = (step - warmup) / (self.steps - warmup)
        return (
            _cosine(self.rate, self.rate / END, (step + 1) / self.steps),
            _cosine(LOW_BETA, HIGH_BETA, past),
        )

    def _warming(self, step: int, warmup: int) -> float:
        if self.ratio:
            share = 1 - (1 - step / warmup) * (1 - self.ratio)
            return self.rate * share * (1 - step / self.steps)
        return self.rate / FINAL + _cosine(self.rate, 0.0, step / self.steps) * step / warmup


def _cosine(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
