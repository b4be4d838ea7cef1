"""RMSNorm: values in float64, and the order of its casts in half precision (docs/spec.md 2.11)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinov3_ref.layers import RMSNorm


def test_values_in_float64() -> None:
    layer = RMSNorm(4).double()
    layer.weight.data = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    x = np.array([[3.0, -4.0, 0.0, 12.0], [1e-3, 2e-3, 0.0, 0.0]])
    wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * [1.0, 2.0, -1.0, 0.5]
    got = layer(torch.from_numpy(x)).detach()
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-14)


def test_mean_is_not_taken_off() -> None:
    assert RMSNorm(3, eps=0.0)(torch.full((1, 3), 5.0)).tolist() == [[1.0, 1.0, 1.0]]


def test_eps_decides_for_small_inputs() -> None:
    x = torch.full((1, 8), 1e-3)
    assert float(RMSNorm(8)(x)[0, 0].detach()) == pytest.approx(1e-3 / (1e-6 + 1e-5) ** 0.5, rel=1e-5)
    assert RMSNorm(8)(torch.zeros(1, 8)).count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_squares_in_fp32_and_multiplies_after_the_cast(dtype: torch.dtype) -> None:
    """600² does not fit in fp16."""
    torch.manual_seed(0)
    x = (600 * torch.randn(4, 64)).to(dtype)
    layer = RMSNorm(64)
    layer.weight.data = 1 + 0.3 * torch.randn(64)
    layer.to(dtype)
    wide = x.float()
    wanted = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(dtype) * layer.weight
    got = layer(x)
    assert got.dtype == dtype
    assert bool(got.isfinite().all())
    assert torch.equal(got, wanted)


def test_weight_is_all_there_is_and_starts_at_one() -> None:
    layer = RMSNorm(3)
    assert list(layer.state_dict()) == ["weight"]
    layer.weight.data.zero_()
    layer.reset_parameters()
    assert layer.weight.tolist() == [1.0, 1.0, 1.0]
