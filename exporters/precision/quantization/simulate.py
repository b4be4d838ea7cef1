"""The reference with some of its linear layers rounded to 8 bits, in fp32: what they would cost in the end.

Shapes: K input channels, N output channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.models import Backbone
from exporters.precision.quantization.plan import GroupPlan
from exporters.precision.quantization.rounding import FORMATS, Format, fake_rows, fake_static, fake_weight


@contextmanager
def rounded(model: Backbone, plans: Sequence[GroupPlan], form: str, *, rows: bool) -> Iterator[None]:
    """While open, the planned layers of `model` compute as their 8-bit graph does.

    `rows`: activations as the CPU dialect rounds them, a scale for each; else with their static scale.
    """
    handles, kept = [], []
    try:
        for plan in plans:
            for module in _layers(model, plan):
                kept.append((module, module.weight.data))
                module.weight.data = _fake(module.weight.data, plan, FORMATS[form])
                handles.append(module.register_forward_pre_hook(_hook(plan, FORMATS[form], rows)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, weight in kept:
            module.weight.data = weight


def _layers(model: Backbone, plan: GroupPlan) -> Iterator[Any]:
    """The reference's linear layers of a group: qkv is one there."""
    paths = (plan.group.observed, *(path for path in plan.group.linears if path.endswith(".w2")))
    for path in dict.fromkeys(paths):
        module = model.get_submodule(path)
        assert isinstance(module, nn.Linear)
        yield module


def _fake(weight_NK: Tensor, plan: GroupPlan, form: Format) -> Tensor:
    return fake_weight(weight_NK * plan.smoothing, form) / plan.smoothing


def _hook(plan: GroupPlan, form: Format, rows: bool) -> Any:
    def round_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0] / plan.smoothing
        x = fake_rows(x) if rows else fake_static(x, plan.largest, form)
        return (x * plan.smoothing, *inputs[1:])

    return round_input


def features(model: Backbone, batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(CLS [n,D], mean patch [n,D]) of all pictures."""
    with torch.inference_mode():
        outputs = [model(batch, is_training=True) for batch in batches]
    cls = torch.cat([out["x_norm_clstoken"] for out in outputs])
    return cls, torch.cat([out["x_norm_patchtokens"].mean(dim=1) for out in outputs])
