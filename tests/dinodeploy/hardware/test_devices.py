"""The names of a CPU and a GPU, as receipts use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dinodeploy.errors import UnavailableError
from dinodeploy.hardware import devices as machine
from tests.dinodeploy.backends.gpu_machine import DEVICE, FakeDriver, pretend_gpu


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    machine.cpu_name.cache_clear()
    machine.find_gpu.cache_clear()
    yield
    machine.cpu_name.cache_clear()
    machine.find_gpu.cache_clear()


@pytest.mark.parametrize(
    ("cpuinfo", "wanted"),
    [
        ("model name\t: AMD EPYC 9654\nflags\t\t: fpu avx2 avx512f sse\n", "AMD EPYC 9654 [avx2 avx512f]"),
        ("processor\t: 0\nFeatures\t: fp asimddp i8mm\n", "[asimddp i8mm]"),
    ],
)
def test_kernel_choosing_flags_are_part_of_the_name(
    cpuinfo: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.cpu_name().endswith(wanted)


def test_a_machine_without_cpuinfo_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "nothing")
    assert machine.cpu_name()


def test_a_gpu_is_named_by_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, tmp_path)
    gpu = machine.find_gpu()
    assert gpu == machine.Gpu("NVIDIA L4", "8.9", "570.86.15")
    assert gpu.device == DEVICE


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun\nGCC: 12.3.0",
            "535.183.01",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build", "540.4.0"),
        ("something else", "CUDA 12.8"),
        (None, "CUDA 12.8"),
    ],
)
def test_the_driver_is_the_kernels_or_cudas(
    text: str | None, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch, tmp_path)
    path = tmp_path / "nvidia_version"
    path.unlink() if text is None else path.write_text(text)
    assert machine.find_gpu().driver == wanted


def test_no_driver_and_no_gpu_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DRIVER_LIBRARY", "libnothing_of_that_name.so")
    with pytest.raises(UnavailableError, match=r"no NVIDIA driver here \(libnothing_of_that_name"):
        machine.find_gpu()
    pretend_gpu(monkeypatch, tmp_path, FakeDriver(count=0))
    with pytest.raises(UnavailableError, match=r"shows no GPU \(cuInit: 0\).*CUDA_VISIBLE_DEVICES"):
        machine.find_gpu()
    pretend_gpu(monkeypatch, tmp_path, FakeDriver(status=100))
    with pytest.raises(UnavailableError, match=r"shows no GPU \(cuInit: 100\)"):
        machine.find_gpu()
