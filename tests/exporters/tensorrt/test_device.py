"""The GPU of the building machine: the runtime's own look at it, without its complaint."""

from __future__ import annotations

import pytest

from dinodeploy.errors import UnavailableError
from dinodeploy.hardware import devices as machine
from exporters.tensorrt.device import Gpu, find_gpu


def test_no_gpu_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def complain() -> Gpu:
        raise UnavailableError("no NVIDIA driver here")

    monkeypatch.setattr(machine, "find_gpu", complain)
    assert find_gpu() is None


def test_the_gpu_is_the_one_that_engines_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("NVIDIA L4", "8.9", "580.65.06")
    monkeypatch.setattr(machine, "find_gpu", lambda: gpu)
    assert find_gpu() is gpu
