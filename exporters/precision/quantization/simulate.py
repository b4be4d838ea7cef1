"""Run the reference with some linear layers rounded to 8 bits, in fp32, to measure the error of a scheme.

Shapes: B images, D embed_dim, K input channels, N output channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.models import Backbone
from exporters.precision.quantization.rounding import (
    FORMATS,
    Format,
    fake_per_token,
    fake_static,
    fake_weight,
)
from exporters.precision.quantization.scheme import GroupScheme


@contextmanager
def simulate_8_bits(
    model: Backbone, schemes: Sequence[GroupScheme], form: str, *, per_token: bool
) -> Iterator[None]:
    """While open, the layers of `schemes` compute in `model` as they do in the 8-bit graph.

    `per_token`: activations have a scale per token, as in the CPU graph; else their static scale.
    """
    handles, kept = [], []
    try:
        for scheme in schemes:
            for module in _layers(model, scheme):
                kept.append((module, module.weight.data))
                module.weight.data = _fake(module.weight.data, scheme, FORMATS[form])
                handles.append(module.register_forward_pre_hook(_hook(scheme, FORMATS[form], per_token)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, weight in kept:
            module.weight.data = weight


def _layers(model: Backbone, scheme: GroupScheme) -> Iterator[Any]:
    """The linear layers of a group in the reference, where qkv is one layer."""
    paths = (scheme.group.observed, *(path for path in scheme.group.linears if path.endswith(".w2")))
    for path in dict.fromkeys(paths):
        module = model.get_submodule(path)
        assert isinstance(module, nn.Linear)
        yield module


def _fake(weight_NK: Tensor, scheme: GroupScheme, form: Format) -> Tensor:
    return fake_weight(weight_NK * scheme.smoothing, form) / scheme.smoothing


def _hook(scheme: GroupScheme, form: Format, per_token: bool) -> Any:
    def round_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0] / scheme.smoothing
        x = fake_per_token(x) if per_token else fake_static(x, scheme.largest, form)
        return (x * scheme.smoothing, *inputs[1:])

    return round_input


def features(model: Backbone, batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Normalised pixels [B,3,H,W] in batches -> (CLS, mean patch), [images,D] each."""
    with torch.inference_mode():
        outputs = [model(batch, is_training=True) for batch in batches]
    cls = torch.cat([out["x_norm_clstoken"] for out in outputs])
    return cls, torch.cat([out["x_norm_patchtokens"].mean(dim=1) for out in outputs])
