"""The plan of an 8-bit export: for every group its smoothing and its static range, or 16 bits.

One plan serves every dialect. TensorRT takes the static range; the CPU dialect scales each row as it comes
and takes the smoothing alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from exporters.precision.quantization.groups import Group
from exporters.precision.quantization.observe import Observation
from exporters.precision.quantization.rounding import FORMATS
from exporters.precision.quantization.smoothing import (
    choose_scale,
    choose_static,
    fold_smoothing,
    group_weight,
)
from exporters.trace.fold import Weights


@dataclass(frozen=True)
class GroupPlan:
    """One group in 8 bits: `smoothing` [K] divides its input, `largest` is its static range after that."""

    group: Group
    smoothing: Tensor
    largest: float

    @property
    def needs_mul(self) -> bool:
        """Whether the graph must divide, since nothing before the group could take the smoothing."""
        return not self.group.carriers and bool((self.smoothing != 1).any())


@dataclass(frozen=True)
class QuantPlan:
    """Group plans by linear layer's path in the twin; what is not here keeps 16 bits."""

    format: str  # int8 or fp8
    groups: tuple[GroupPlan, ...]

    def by_linear(self) -> dict[str, GroupPlan]:
        return {linear: plan for plan in self.groups for linear in plan.group.linears}


def make_plan(
    weights: Weights, groups: Sequence[Group], seen: Mapping[str, Observation], form: str
) -> QuantPlan:
    """Choose smoothing and range for each group, by measured error; the weights are not changed yet."""
    plans = []
    for group in groups:
        observation = seen[group.path]
        weight = group_weight(weights, group.linears)
        scale = choose_scale(observation, weight, FORMATS[form])
        largest = choose_static(observation, scale, weight, FORMATS[form])
        plans.append(GroupPlan(group, scale, largest))
    return QuantPlan(form, tuple(plans))


def fold_plan(weights: Weights, plan: QuantPlan) -> None:
    """Fold every group's smoothing into the table of weights."""
    for group_plan in plan.groups:
        fold_smoothing(weights, group_plan.group, group_plan.smoothing)
