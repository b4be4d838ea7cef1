"""The quantization scheme of an 8-bit export: smoothing and static range of every group in 8 bits.

Both graphs use the same scheme. TensorRT's uses smoothing and static range; the CPU's uses only smoothing,
and scales every token by its own maximum.

Shapes: K input channels.
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
class GroupScheme:
    """A group in 8 bits: its input is divided by `smoothing` [K], then clipped to ±`largest`."""

    group: Group
    smoothing: Tensor
    largest: float

    @property
    def needs_mul(self) -> bool:
        """Whether the graph needs a Mul for the smoothing, because no weight can carry it."""
        return not self.group.carriers and bool((self.smoothing != 1).any())


@dataclass(frozen=True)
class QuantScheme:
    """The groups in 8 bits; layers that are in no group keep 16 bits."""

    format: str  # int8 or fp8
    groups: tuple[GroupScheme, ...]

    def by_linear(self) -> dict[str, GroupScheme]:
        """Group by the path of each linear layer in the meta copy."""
        return {linear: scheme for scheme in self.groups for linear in scheme.group.linears}


def make_scheme(
    weights: Weights, groups: Sequence[Group], seen: Mapping[str, Observation], form: str
) -> QuantScheme:
    """Choose smoothing and range of each group by measured error; does not change the weights."""
    schemes = []
    for group in groups:
        observation = seen[group.path]
        weight = group_weight(weights, group.linears)
        scale = choose_scale(observation, weight, FORMATS[form])
        largest = choose_static(observation, scale, weight, FORMATS[form])
        schemes.append(GroupScheme(group, scale, largest))
    return QuantScheme(form, tuple(schemes))


def fold_scheme(weights: Weights, scheme: QuantScheme) -> None:
    """Fold the smoothing of every group into the table of weights."""
    for group in scheme.groups:
        fold_smoothing(weights, group.group, group.smoothing)
