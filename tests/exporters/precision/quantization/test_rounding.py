"""8-bit rounding by hand."""

from __future__ import annotations

import pytest
import torch

from exporters.precision.quantization.rounding import (
    FP8,
    INT8,
    PORTABLE,
    fake_per_token,
    fake_static,
    fake_weight,
    relative_error,
)


def test_rounding_by_hand() -> None:
    x = torch.tensor([[1.27, -0.5, 0.004]])
    assert torch.allclose(fake_static(x, 1.27, INT8), torch.tensor([[1.27, -0.5, 0.0]]))
    assert torch.allclose(fake_static(x, 0.5, INT8)[0, 0], torch.tensor(0.5)), "clipped"
    tokens = fake_per_token(torch.tensor([[63.0, 1.4], [0.63, 0.014]]), PORTABLE)
    assert torch.allclose(tokens, torch.tensor([[63.0, 1.0], [0.63, 0.01]])), "each token has its own scale"
    assert fake_per_token(torch.zeros(1, 3), PORTABLE).tolist() == [[0.0, 0.0, 0.0]]
    weight = torch.tensor([[127.0, 1.4], [1.27, 0.014]])
    assert torch.allclose(fake_weight(weight, INT8), torch.tensor([[127.0, 1.0], [1.27, 0.01]]))
    assert fake_static(torch.tensor([[448.0, 17.0]]), 448.0, FP8).tolist() == [[448.0, 16.0]], "three bits"
    assert relative_error(torch.tensor([[1.1, 0.0]]), torch.tensor([[1.0, 0.0]])) == pytest.approx(0.1)
