"""The dtype in which losses are computed."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.loss.precision import at_least_fp32, no_autocast


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_low_precision_becomes_fp32(dtype: torch.dtype, wide: torch.dtype) -> None:
    assert at_least_fp32(torch.ones(2, dtype=dtype)).dtype == wide


def test_autocast_is_off_inside() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with no_autocast(x):
            assert (x @ x).dtype == torch.float32
