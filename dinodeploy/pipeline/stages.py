"""Where the time of a run goes: how long the pipeline waited for each stage, and how long each worked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

STAGES = ("decode", "engine", "write")


@dataclass
class Stages:
    """Seconds by stage.

    waited: the pipeline waited for this stage; these and `rest` add up to the run.
    worked: the stage was busy, summed over its threads; stages overlap.
    """

    waited: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    worked: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    total: float = 0.0

    @contextmanager
    def waiting(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.waited[stage] += time.perf_counter() - started

    def add(self, other: Stages) -> None:
        """Add the seconds of another run."""
        for stage in STAGES:
            self.waited[stage] += other.waited[stage]
            self.worked[stage] += other.worked[stage]
        self.total += other.total

    @property
    def bottleneck(self) -> str:
        """The stage with the most waiting time."""
        return max(STAGES, key=lambda stage: self.waited[stage])

    @property
    def shares(self) -> dict[str, float]:
        """Fraction of the run spent waiting for each stage, and the rest."""
        total = max(self.total, 1e-9)
        shares = {stage: self.waited[stage] / total for stage in STAGES}
        return {**shares, "rest": max(0.0, 1 - sum(shares.values()))}

    def report(self) -> dict[str, dict[str, float]]:
        """For --json: seconds waited and worked and the share of the run, by stage."""
        return {
            stage: {
                "waited": round(self.waited[stage], 3),
                "worked": round(self.worked[stage], 3),
                "share": round(self.shares[stage], 4),
            }
            for stage in STAGES
        }

    def __str__(self) -> str:
        parts = [f"{stage} {self.waited[stage]:.1f} s ({self.shares[stage]:.0%})" for stage in STAGES]
        return "waited for " + ", ".join(parts) + f"; rest {self.shares['rest']:.0%}"
