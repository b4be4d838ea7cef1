"""The device of a rank, and the process group under torchrun."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from dinov3_ref.train.distributed.devices import autocast, grad_scaler, launched_device
from tests.support.training.toy_training import tiny_training


def test_without_torchrun_there_is_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with launched_device() as device:
        assert device.type in ("cpu", "cuda")
        assert not dist.is_initialized()


def test_under_torchrun_a_process_group_exists_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }.items():
        monkeypatch.setenv(name, value)
    with launched_device():
        assert dist.get_world_size() == 1
    assert not dist.is_initialized()


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("kind", DTYPES)
def test_products(kind: str) -> None:
    config = tiny_training(f"compute_precision.param_dtype={kind}")
    x = torch.ones(2, 2)
    with autocast(config, "cpu"):
        assert (x @ x).dtype == DTYPES[kind]
    assert grad_scaler(config, torch.device("cpu")).is_enabled() == (kind == "fp16")
