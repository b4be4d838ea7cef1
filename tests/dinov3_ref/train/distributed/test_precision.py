"""Mixed precision: the dtype of products, and when the loss is scaled."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.train.distributed.precision import autocast, grad_scaler
from tests.support.toy_training import tiny_training

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("kind", DTYPES)
def test_products(kind: str) -> None:
    config = tiny_training(f"compute_precision.param_dtype={kind}")
    x = torch.ones(2, 2)
    with autocast(config, "cpu"):
        assert (x @ x).dtype == DTYPES[kind]
    assert grad_scaler(config, torch.device("cpu")).is_enabled() == (kind == "fp16")
