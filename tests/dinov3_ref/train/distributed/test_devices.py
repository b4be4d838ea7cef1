"""The device of a rank, and the process group under torchrun."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from dinov3_ref.train.distributed.devices import launched_device


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
