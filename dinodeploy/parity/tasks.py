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
from dinodeploy.parity.depth import DEPTH_THRESHOLDS, has_condition, measure_depth, scale_limits
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
    applies: Callable[[HeadFacts], bool] = lambda head: True
    scale: Callable[[tuple[Threshold, ...], HeadFacts, str], tuple[Threshold, ...]] | None = None

    def limits(self, recipe: str, head: HeadFacts, head_precision: str = "fp32") -> tuple[Threshold, ...]:
        """The limits for a head under `recipe`; under fp32 those of the head's own precision."""
        recipe = head_precision if recipe == "fp32" else recipe
        limits = self.thresholds.get(recipe, ())
        return limits if self.scale is None else self.scale(limits, head, recipe)


def masks_and_classes(got: Outputs, wanted: Outputs, head: HeadFacts) -> Measured:
    """Of queries: mean IoU of masks [B,Q,h,w] (logits above 0), share of equal best classes [B,Q,C+1]."""
    ours, theirs = (
        one["mask_logits"].reshape(-1, *one["mask_logits"].shape[-2:]) > 0 for one in (got, wanted)
    )
    both, either = (pair.sum(axis=(1, 2)) for pair in (ours & theirs, ours | theirs))
    there = either > 0
    iou = float((both[there] / either[there]).mean()) if there.any() else 1.0
    same = got["class_logits"].argmax(axis=-1) == wanted["class_logits"].argmax(axis=-1)
    return {"mask_logits": {"mask_iou": iou}, "class_logits": {"class_agreement": float(same.mean())}}


TASKS: dict[str, TaskMeasure] = {
    "detect": TaskMeasure(
        measure_detections,
        # measured: the worst of planted detectors of 64 and 384 channels. 8 bits: whether it is that model
        # at all; `box_iou` then tells what it costs
        {
            "fp32": (
                Threshold("queries_changed", 0.005, 0.0),
                Threshold("score_error", 1e-4, 6.4e-6),
                Threshold("box_error", 1e-4, 2.2e-6),
            ),
            "fp16": (
                Threshold("queries_changed", 0.05, 0.0),
                Threshold("score_error", 0.02, 0.002),
                Threshold("box_iou", 0.99, 0.997, at_least=True),
            ),
            "bf16": (Threshold("box_iou", 0.9, 0.98, at_least=True),),
            "bf16-residual": (Threshold("box_iou", 0.9, 0.98, at_least=True),),  # held to bf16's
            "int8": (Threshold("box_iou", 0.6, 0.877, at_least=True),),
            "fp8": (Threshold("box_iou", 0.4, 0.666, at_least=True),),
        },
        frozenset({"logits", "boxes", "positions"}),
    ),
    "panoptic": TaskMeasure(
        masks_and_classes,
        # measured: the worst of lively and planted models of 64, 384 and 1024 channels, with and without
        # masked attention, on ONNX Runtime and OpenVINO
        {
            recipe: (Threshold("mask_iou", limit, measured, at_least=True),)
            for recipe, limit, measured in (
                ("fp32", 0.9999, 0.99999),
                ("fp16", 0.99, 0.9944),
                ("bf16", 0.9, 0.9397),
                ("bf16-residual", 0.9, 0.9397),  # held to bf16's
                ("int8", 0.95, 0.9739),
                ("fp8", 0.9, 0.9453),
            )
        },
    ),
    "depth": TaskMeasure(
        measure_depth, DEPTH_THRESHOLDS, frozenset({"depth"}), applies=has_condition, scale=scale_limits
    ),
}


def measure_of(head: HeadFacts | None) -> TaskMeasure | None:
    """The task's own measure of a head, or None."""
    own = TASKS.get(head.task) if head is not None else None
    return own if own is not None and head is not None and own.applies(head) else None


def replaced(head: HeadFacts) -> frozenset[str]:
    """The outputs that only the task's own measure compares."""
    own = measure_of(head)
    return own.replaces if own is not None else frozenset()
