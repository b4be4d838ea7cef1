"""What the judge found: measurements, and the verdict that they make together."""

from __future__ import annotations

from dataclasses import dataclass

PATCH_METRICS = frozenset({"patch_cosine_p01"})  # which an engine without patches cannot have


@dataclass(frozen=True)
class Measurement:
    """One number of one case, and whether it is good enough. `limit` None: reported, not judged."""

    case: str
    output: str
    metric: str
    value: float | None  # None: not finite, or could not be measured
    limit: float | None
    passed: bool
    note: str = ""

    @property
    def sentence(self) -> str:
        """What was found and what the limit is, for messages."""
        if self.note or self.value is None:
            return f"{self.metric}: {self.note or 'not finite'}"
        limit = "" if self.limit is None else f", limit {self.limit:.7g}"
        return f"{self.metric} is {self.value:.7g}{limit}"


@dataclass(frozen=True)
class Verdict:
    """All measurements of one engine."""

    recipe: str
    measurements: tuple[Measurement, ...]

    @property
    def passed(self) -> bool:
        return bool(self.measurements) and all(m.passed for m in self.measurements)

    @property
    def failures(self) -> tuple[Measurement, ...]:
        return tuple(m for m in self.measurements if not m.passed)

    def worst(self, metric: str) -> float | None:
        """The worst value of a metric over all cases, or None if it was never measured."""
        values = [m.value for m in self.measurements if m.metric == metric and m.value is not None]
        if not values:
            return None
        rising = "cosine" in metric or metric.endswith(("_iou", "nearest_neighbour", "_agreement"))
        return min(values) if rising else max(values)
