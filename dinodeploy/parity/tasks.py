"""The judge's measures by task: what a wrong mask, box or class costs, beside the errors of the numbers.

Each task adds a row to `TASKS`. The judge calls `measure` once per golden case, with all outputs of the
head, and holds the values against the task's own limits.

Shapes: B batch, Q queries, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.facts import HeadFacts
from dinodeploy.parity.detections import measure_detections
from dinodeploy.parity.thresholds import Threshold

Outputs = Mapping[str, FloatArray]
Measured = Mapping[str, Mapping[str, float]]  # what was compared (an output) -> metric -> value


@dataclass(frozen=True)
class TaskMeasure:
    """How a task's outputs are compared with the reference's."""

    measure: Callable[[Outputs, Outputs, HeadFacts], Measured]  # the engine's, the reference's, of one case
    thresholds: Mapping[str, tuple[Threshold, ...]]  # by recipe; a metric without a limit is reported only
    # outputs that only `measure` compares, because their order may change (ties in a TopK)
    replaces: frozenset[str] = field(default=frozenset())

    def limits(self, recipe: str, head_precision: str = "fp32") -> tuple[Threshold, ...]:
        """The limits under `recipe`; under fp32 those of the head's own precision."""
        return self.thresholds.get(head_precision if recipe == "fp32" else recipe, ())


TASKS: dict[str, TaskMeasure] = {
    "detect": TaskMeasure(
        measure_detections,
        {
            "fp32": (
                Threshold("queries_changed", 0.005, 0.0),
                Threshold("score_error", 1e-4, 2e-6),
                Threshold("box_error", 1e-4, 1e-6),
            ),
        },
        frozenset({"logits", "boxes", "positions"}),
    ),
}


def replaced(head: HeadFacts) -> frozenset[str]:
    """The outputs that only the task's own measure compares."""
    own = TASKS.get(head.task)
    return own.replaces if own is not None else frozenset()
