"""How well-conditioned a head is: the reference against itself, for the limits of the judge.

    fp32           the head in fp32 against fp64, and in fp64 on features disturbed as fp32 disturbs them
    other recipes  in fp64 on features disturbed by as much as the recipe's backbone may be wrong

Measured on the golden photographs, once, when a head is attached (`dinodeploy/parity/depth.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from dinodeploy.errors import MisuseError
from dinodeploy.parity.depth import CONDITION, METRICS, compare_depth
from dinodeploy.parity.golden import GoldenCase
from dinov3_ref.heads import Head

# recipe -> relative error of the features: what the judge's table measured (`parity/thresholds.py`)
DISTURBANCE = {
    "fp32": 1.4e-6,
    "fp16": 1.9e-3,
    "bf16": 1.8e-2,
    "bf16-residual": 4.6e-2,
    "int8": 6e-2,
    "fp8": 6e-2,
}
SEED = 0

Condition = dict[str, dict[str, dict[str, float]]]


def condition_of(head: Head, cases: Sequence[GoldenCase], recipe: str) -> Condition:
    """{"condition": recipe -> metric -> value}, the worst over `cases`; empty for a head that needs none."""
    if not head.needs_condition:
        return {}
    exact = copy.deepcopy(head).double()
    generator = torch.Generator().manual_seed(SEED)
    worst: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for case in cases:
            features = features_of(case, head.inputs)
            wanted = _depth(exact, [x.double() for x in features])
            disturbed = {
                name: _depth(exact, [_disturb(x.double(), DISTURBANCE[name], generator) for x in features])
                for name in dict.fromkeys(("fp32", recipe))
            }
            runs = [("fp32", _depth(head, features)), *disturbed.items()]
            for name, depth in runs:
                values = compare_depth(depth.double().numpy(), wanted.numpy())
                own = worst.setdefault(name, dict.fromkeys(METRICS, 0.0))
                own.update({metric: max(own[metric], value) for metric, value in values.items()})
    rounded = {
        name: {metric: float(f"{value:.3g}") for metric, value in values.items()}
        for name, values in worst.items()
    }
    return {CONDITION: rounded}


def _depth(head: Head, features: Sequence[Tensor]) -> Tensor:
    made: Tensor = head(*features)[0]
    return made


def _disturb(x: Tensor, by: float, generator: torch.Generator) -> Tensor:
    """x with noise of the relative size `by`, of any shape."""
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x + by * x.square().mean().sqrt() * noise


def features_of(case: GoldenCase, names: Sequence[str]) -> list[torch.Tensor]:
    """The backbone outputs `names` of a golden case. Raises MisuseError for one that it lacks."""
    missing = [name for name in names if name not in case.outputs]
    if missing:
        kind, _, index = missing[0].partition("_")
        fix = {"layer": f"; export it with --layers {index}", "cls": "; export with --head"}.get(kind, "")
        raise MisuseError(f"the head reads {missing[0]}, which is not an output of this bundle{fix}")
    return [torch.from_numpy(case.outputs[name]) for name in names]
