"""Each rule on a machine with the problem, and on one without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.doctor.device_checks import DeviceCheck
from dinodeploy.doctor.findings import Examined, Finding, find_findings
from dinodeploy.doctor.packages import PACKAGES, Installed
from dinodeploy.doctor.system import System
from dinodeploy.hardware.devices import Gpu

L4 = Gpu("NVIDIA L4", "8.9", "570.86.15")
GOOD = System(
    system="Linux 6.1",
    architecture="x86_64",
    python="3.11.2",
    cpu="AMD EPYC",
    features=("AVX2", "AVX-512", "AVX-512 VNNI"),
    cores=8,
    cores_allowed=8,
    memory=32 << 30,
    memory_allowed=32 << 30,
    gpu=None,
    no_gpu="no NVIDIA driver here; go to a machine with a GPU",
    gpu_on_bus=False,
    kernel_driver=False,
    jetson_linux=None,
    jetpack=None,
)
ALL = {package.name: Installed(package.minimum) for package in PACKAGES}
NONE = {package.name: Installed(None) for package in PACKAGES}
CPU_ONLY = {**NONE, "numpy": Installed("2.0"), "onnxruntime": Installed("1.20")}


def find(
    packages: dict[str, Installed] = CPU_ONLY, runtimes: tuple[str, ...] = (), **system: Any
) -> tuple[Finding, ...]:
    return find_findings(Examined(replace(GOOD, **system), packages, list(runtimes), None, ()))


def one(findings: tuple[Finding, ...]) -> Finding:
    (finding,) = findings
    return finding


def test_a_good_machine() -> None:
    assert find() == ()
    assert find(packages={**ALL, "tensorrt": Installed("10.9.0"), "tensorrt-rtx": Installed(None)}) == ()


def test_no_runtime() -> None:
    finding = one(find(packages=NONE))
    assert (finding.level, finding.fix) == ("error", "pip install onnxruntime")
    plans = {**NONE, "tensorrt": Installed("10.9"), "cuda-bindings": Installed("13.0")}
    assert find(packages=plans, gpu=L4) == (), "a device that runs plans needs no ONNX Runtime"


def test_onnx_with_a_known_vulnerability() -> None:
    finding = one(find(packages={**CPU_ONLY, "onnx": Installed("1.20.1")}))
    assert finding.what.startswith("onnx is 1.20.1, wanted 1.21 or later")
    assert "CVE-2026-27489" in finding.link
    assert finding.fix == "pip install --upgrade 'onnx>=1.21'"


@pytest.mark.parametrize(("name", "version"), [("numpy", "1.25.2"), ("pillow", "10.4.0")])
def test_versions_below_the_minimum(name: str, version: str) -> None:
    finding = one(find(packages={**CPU_ONLY, name: Installed(version)}))
    assert finding.level == "warning"
    assert finding.what.startswith(f"{name} is {version}, wanted ")


def test_a_tensorrt_with_known_defects() -> None:
    packages = {**ALL, "tensorrt": Installed("10.3.0.30"), "tensorrt-rtx": Installed(None)}
    findings = find(packages=packages, gpu=L4)
    assert [finding.link[-4:] for finding in findings] == ["4419"]
    assert findings[0].fix == "pip install --upgrade 'tensorrt!=10.3.0.30'"


def test_a_broken_runtime() -> None:
    finding = one(find(packages={**CPU_ONLY, "tensorrt": Installed("10.9", "libnvinfer.so.10: not found")}))
    assert "tensorrt 10.9 is installed but cannot be loaded: libnvinfer.so.10" in finding.what
    assert finding.fix == "pip install --force-reinstall 'tensorrt'"


def test_two_distributions_of_onnx_runtime() -> None:
    finding = one(find(runtimes=("onnxruntime", "onnxruntime-gpu")))
    assert finding.fix == ("pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu")


def test_a_gpu_without_a_runtime() -> None:
    assert one(find(gpu=L4)).what == "no runtime here can use the NVIDIA L4"
    cuda = Installed("1.20", providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    assert find(packages={**CPU_ONLY, "onnxruntime": cuda}, gpu=L4) == ()
    rtx = {**CPU_ONLY, "tensorrt-rtx": Installed("1.7.1")}
    assert one(find(packages=rtx, gpu=L4)).fix == "pip install 'dinodeploy[tensorrt]'"


def test_a_gpu_that_this_process_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(find(gpu_on_bus=True)).fix == "install the NVIDIA driver"
    container = one(find(gpu_on_bus=True, kernel_driver=True))
    assert "docker run --gpus all" in container.fix
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert one(find(kernel_driver=True)).fix == "unset CUDA_VISIBLE_DEVICES"
    assert find() == ()


def test_an_old_jetpack() -> None:
    assert "flash JetPack 6.1" in one(find(jetson_linux="35.4.1", jetpack="5")).fix
    assert find(jetson_linux="36.4.3", jetpack="6") == ()
    assert find(jetson_linux="99.1", jetpack=None) == ()


def test_a_slow_cpu() -> None:
    assert "no AVX2" in one(find(features=())).what
    assert find(features=None) == (), "unknown features are no problem"
    assert find(features=("NEON",), architecture="aarch64") == ()


def test_a_cpu_quota() -> None:
    finding = one(find(cores=64, cores_allowed=1.5))
    assert (finding.level, finding.fix) == ("note", "give embed and check --threads 2")


# ---- with a bundle ---------------------------------------------------------------------------------


def about(bundle: Path, *devices: DeviceCheck, **system: Any) -> tuple[Finding, ...]:
    examined = Examined(replace(GOOD, **system), CPU_ONLY, [], open_bundle(bundle), devices)
    return find_findings(examined)


RUNS = DeviceCheck("auto", "model.onnx", "onnxruntime 1.20", "cpu: x86_64", True, ())
FAILS = DeviceCheck("auto", None, None, None, False, ("no driver; go elsewhere", "too old; pip install x"))


def test_a_bundle_that_runs(tiny_bundle: Path) -> None:
    assert about(tiny_bundle, RUNS) == ()
    note = one(about(tiny_bundle, replace(RUNS, judged=False)))
    assert (note.level, note.fix) == ("note", f"dinodeploy check {tiny_bundle}")


def test_a_bundle_that_cannot_run_lists_every_reason(tiny_bundle: Path) -> None:
    findings = about(tiny_bundle, FAILS)
    assert [finding.level for finding in findings] == ["error", "error"]
    assert [finding.fix for finding in findings] == ["go elsewhere", "pip install x"]
    beside = about(tiny_bundle, FAILS, replace(RUNS, device="cpu"))
    assert "(--device cpu can)" in beside[0].what


def test_errors_come_first(tiny_bundle: Path) -> None:
    findings = about(tiny_bundle, FAILS, features=())
    assert [finding.level for finding in findings] == ["error", "error", "warning"]


def test_a_bundle_larger_than_memory(tiny_bundle: Path) -> None:
    finding = one(about(tiny_bundle, RUNS, memory_allowed=1000))
    assert "memory limit" in finding.fix
    assert "model.cpu.onnx has 0.0 GiB" in finding.what
