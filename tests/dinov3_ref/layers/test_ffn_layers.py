"""MLP and SwiGLU against numpy in float64, and the widths of the released models (docs/spec.md 2.10)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dinov3_ref.layers import Mlp, SwiGLUFFN
from dinov3_ref.layers.ffn_layers import swiglu_width

Array = NDArray[np.float64]


def tokens() -> Tensor:
    return 2 * torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def lively(layer: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return layer.double().eval()


def linear(layer: nn.Linear, x: Array) -> Array:
    y = x @ layer.weight.detach().numpy().T
    return y + layer.bias.detach().numpy() if layer.bias is not None else y


@pytest.mark.parametrize("bias", [True, False])
def test_mlp_has_the_exact_gelu(bias: bool) -> None:
    layer = lively(Mlp(12, 20, bias=bias))
    hidden = linear(layer.fc1, tokens().numpy())
    gelu = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    np.testing.assert_allclose(
        layer(tokens()).detach().numpy(), linear(layer.fc2, gelu), rtol=1e-10, atol=1e-11
    )
    assert sorted(layer.state_dict()) == sorted(
        f"{name}.{kind}" for name in ("fc1", "fc2") for kind in ("weight", "bias")[: 1 + bias]
    )


@pytest.mark.parametrize("bias", [True, False])
def test_swiglu_gates_with_w1(bias: bool) -> None:
    layer = lively(SwiGLUFFN(12, 30, bias=bias, act_layer=nn.ReLU, drop=0.9)).train()  # both are ignored
    x = tokens().numpy()
    gate = linear(layer.w1, x)
    hidden = gate / (1 + np.exp(-gate)) * linear(layer.w2, x)
    np.testing.assert_allclose(
        layer(tokens()).detach().numpy(), linear(layer.w3, hidden), rtol=1e-10, atol=1e-11
    )
    assert sorted(layer.state_dict()) == sorted(
        f"{name}.{kind}" for name in ("w1", "w2", "w3") for kind in ("weight", "bias")[: 1 + bias]
    )


@pytest.mark.parametrize(
    ("hidden", "align_to", "width"),
    [
        (384 * 6, 8, 1536),
        (1024 * 6, 8, 4096),
        (1280 * 6, 8, 5120),
        (4096 * 3, 64, 8192),  # the four released ones
        (100, 8, 72),  # 66.67 -> 66 -> 72
        (100, 32, 96),
        (100, 64, 128),
        (100, 128, 128),
        (12, 8, 8),
    ],
)
def test_swiglu_width(hidden: int, align_to: int, width: int) -> None:
    assert swiglu_width(hidden, align_to) == width
    assert SwiGLUFFN(4, hidden, align_to=align_to).w2.weight.shape == (width, 4)


@pytest.mark.parametrize(("layer", "last"), [(Mlp, "fc2"), (SwiGLUFFN, "w3")])
def test_widths_default_to_the_input(layer: type[nn.Module], last: str) -> None:
    assert layer(12)(torch.zeros(1, 12)).shape == (1, 12)
    assert layer(12, 24, 7)(torch.zeros(1, 12)).shape == (1, 7)
    assert layer(12, 24, 7).get_parameter(f"{last}.bias").shape == (7,)


def test_mlp_takes_another_activation_and_drops_out_in_training_only() -> None:
    layer = lively(Mlp(12, 200, act_layer=nn.ReLU, drop=0.5))
    hidden = np.maximum(linear(layer.fc1, tokens().numpy()), 0)
    np.testing.assert_allclose(layer(tokens()).detach().numpy(), linear(layer.fc2, hidden), rtol=1e-10)
    torch.manual_seed(0)
    assert 0.2 < float((layer.train()(tokens()) == 0).double().mean()) < 0.8


@pytest.mark.parametrize("layer", [Mlp(12, 20), SwiGLUFFN(12, 20)])
def test_a_list_equals_its_entries(layer: Any) -> None:
    lively(layer)
    xs = [tokens(), tokens()[:1, :3]]
    for got, x in zip(layer.forward_list(xs), xs, strict=True):
        torch.testing.assert_close(got, layer(x))
