"""Which groups are not worth their 8 bits: measured one by one, given back to 16 where it buys most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dinov3_ref.models import Backbone
from exporters.precision.quantization.plan import GroupPlan, QuantPlan
from exporters.precision.quantization.simulate import features, rounded
from exporters.trace.fold import Weights

PICTURES = 4  # of the calibration pictures: every group costs a forward pass over them
TARGET = 0.08  # relative error of CLS and mean patch: cosine 0.997
GIVEN_BACK = 0.15  # of the linear layers' work at most: the rest of the 80 % is attention's own


@dataclass(frozen=True)
class Search:
    """The plan that is left, and the errors that led to it."""

    plan: QuantPlan
    before: float
    after: float
    given_back: tuple[str, ...]  # group paths, in 16 bits now


def give_back(
    model: Backbone,
    weights: Weights,
    plan: QuantPlan,
    batches: Sequence[Tensor],
    say: Callable[[str], None],
) -> Search:
    """Take groups out of `plan` until its error is within `TARGET` or `GIVEN_BACK` is spent.

    Errors of groups add up in squares. Nothing is given back where that does not measurably help.
    """
    wanted = features(model, batches)

    def error(groups: Sequence[GroupPlan]) -> float:
        with rounded(model, groups, plan.format, rows=False):
            return relative(features(model, batches), wanted)

    before = error(plan.groups)
    if before <= TARGET:
        return Search(plan, before, before, ())
    alone: dict[str, float] = {}
    for index, group in enumerate(plan.groups):
        say(f"sensitivity: {index + 1} of {len(plan.groups)} groups")
        alone[group.group.path] = error([group])
    work = {group.group.path: _work(weights, group) for group in plan.groups}
    dropped = _dearest(alone, work)
    left = tuple(group for group in plan.groups if group.group.path not in dropped)
    after = error(left) if dropped else before
    if after > 0.9 * before:
        return Search(plan, before, before, ())
    return Search(replace(plan, groups=left), before, after, tuple(dropped))


def _dearest(alone: dict[str, float], work: dict[str, int]) -> list[str]:
    """Groups to give back: most squared error for the work first."""
    budget = GIVEN_BACK * sum(work.values())
    left = sum(error**2 for error in alone.values())
    dropped = []
    for path in sorted(alone, key=lambda path: alone[path] ** 2 / work[path], reverse=True):
        if left <= TARGET**2:
            break
        if work[path] <= budget:
            budget -= work[path]
            left -= alone[path] ** 2
            dropped.append(path)
    return dropped


def _work(weights: Weights, plan: GroupPlan) -> int:
    """Multiplications a patch of the output."""
    return plan.group.rows * sum(weights[f"{linear}.weight"]().numel() for linear in plan.group.linears)


def relative(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> float:
    """The worse of CLS's and the mean patch's error: root mean square over pictures of relative errors."""
    pairs = zip(got, wanted, strict=True)
    errors = [((a - b).norm(dim=1) / b.norm(dim=1)).square().mean().sqrt() for a, b in pairs]
    worst = float(torch.stack(errors).max())
    return worst if worst == worst else float("inf")
