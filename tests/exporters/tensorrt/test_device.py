"""The GPU as the driver tells it, by a driver that is a stand-in."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from exporters.tensorrt import device
from exporters.tensorrt.device import Gpu, find_gpu


class Driver:
    """CUDA's driver library with one GPU of compute capability 8.7, good for CUDA 12.6."""

    def __init__(self, init: int = 0, devices: int = 1) -> None:
        self.init, self.devices = init, devices

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuDeviceGet(self, pointer: Any, ordinal: int) -> int:
        return 0 if ordinal < self.devices else 101  # CUDA_ERROR_INVALID_DEVICE

    def cuDeviceGetAttribute(self, pointer: Any, attribute: int, gpu: Any) -> int:
        pointer._obj.value = {75: 8, 76: 7}[attribute]
        return 0

    def cuDriverGetVersion(self, pointer: Any) -> int:
        pointer._obj.value = 12060
        return 0


@pytest.fixture
def no_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A system whose kernel does not tell the driver's release."""
    path = tmp_path / "version"
    monkeypatch.setattr(device, "_DRIVER_VERSION", path)
    return path


def test_no_driver_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert find_gpu() is None


@pytest.mark.parametrize("driver", [Driver(init=100), Driver(devices=0)])
def test_a_driver_without_a_device(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert find_gpu() is None


def test_a_gpu(monkeypatch: pytest.MonkeyPatch, no_release: Path) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert find_gpu() == Gpu("8.7", "CUDA 12.6")
    no_release.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 2025\nGCC 12.3.0\n"
    )
    assert find_gpu() == Gpu("8.7", "580.65.06")
