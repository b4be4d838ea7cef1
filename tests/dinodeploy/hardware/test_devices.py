"""The names of a CPU and a GPU, as receipts use them."""

from __future__ import annotations

import platform
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


def arm(*parts: str, features: str) -> str:
    """The kernel's text for one core after another: IMPLEMENTER:PART."""
    cores = (part.split(":") for part in parts)
    return "\n".join(
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: {maker}\n"
        f"CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: {part}\nCPU revision\t: 1\n"
        for number, (maker, part) in enumerate(cores)
    )


_N1 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_V1 = f"{_N1} sha3 sm3 sm4 uscat ilrcpc flagm ssbs sve dcpodp svei8mm svebf16 i8mm bf16 dgh rng"
MACHINES = {  # /proc/cpuinfo, shortened
    "AMD EPYC": (
        "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9654\n"
        "flags\t\t: fpu sme avx2 avx512f sse\n",
        "AMD EPYC 9654 [avx2 avx512f]",
    ),
    "Intel Xeon": (
        "model name\t: Intel(R) Xeon(R) Platinum 8481C\n"
        "flags\t: avx2 avx512f avx512_vnni amx_int8 amx_bf16\n",
        "Intel(R) Xeon(R) Platinum 8481C [avx2 avx512f avx512_vnni amx_int8 amx_bf16]",
    ),
    "Raspberry Pi 4": (
        arm("0x41:0xd08", features="fp asimd evtstrm crc32 cpuid")
        + "Model\t: Raspberry Pi 4 Model B Rev 1.4\n",
        "implementer 0x41 part 0xd08",
    ),
    "Raspberry Pi 5": (
        arm(*["0x41:0xd0b"] * 4, features=_N1)
        + "Revision\t: d04170\nModel\t: Raspberry Pi 5 Model B Rev 1.0\n",
        "implementer 0x41 part 0xd0b [fphp asimdhp asimddp]",
    ),
    "Graviton 2": (
        arm("0x41:0xd0c", features=f"{_N1} ssbs"),
        "implementer 0x41 part 0xd0c [fphp asimdhp asimddp]",
    ),
    "Graviton 3": (
        arm("0x41:0xd40", features=_V1),
        "implementer 0x41 part 0xd40 [fphp asimdhp asimddp i8mm bf16 sve]",
    ),
    "Jetson Orin": (arm("0x41:0xd42", features=_N1), "implementer 0x41 part 0xd42 [fphp asimdhp asimddp]"),
    "Rockchip RK3588": (
        arm("0x41:0xd05", "0x41:0xd05", "0x41:0xd0b", features=_N1),
        "implementer 0x41 part 0xd05 + implementer 0x41 part 0xd0b [fphp asimdhp asimddp]",
    ),
    "Ampere One": (
        arm("0xc0:0xac3", features=_V1),
        "implementer 0xc0 part 0xac3 [fphp asimdhp asimddp i8mm bf16 sve]",
    ),
    "32-bit Arm": (
        "processor\t: 0\nmodel name\t: ARMv7 Processor rev 3 (v7l)\nFeatures\t: half thumb neon\n"
        "CPU implementer\t: 0x41\nCPU part\t: 0xd08\n",
        "implementer 0x41 part 0xd08",
    ),
    "RISC-V": ("processor\t: 0\nisa\t: rv64imafdc\nuarch\t: sifive,u74-mc\n", "sifive,u74-mc"),
    "POWER": (
        "processor\t: 0\ncpu\t: POWER9 (architected), altivec supported\n",
        "POWER9 (architected), altivec supported",
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_the_name_tells_machines_apart(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo, wanted = MACHINES[name]
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.cpu_name() == f"{platform.machine()} {wanted}"


def test_a_receipt_of_one_machine_of_the_table_holds_on_no_other() -> None:
    names = [wanted for name, (_, wanted) in MACHINES.items() if name != "32-bit Arm"]
    assert len(set(names)) == len(names)


def test_apple_chips_have_their_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        "machdep.cpu.brand_string": b"Apple M2 Pro",
        "hw.optional.arm.FEAT_BF16": b"\1\0\0",
        "hw.optional.arm.FEAT_SME": b"",
    }
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "nothing")
    monkeypatch.setattr(machine, "read_sysctl", known.get)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert machine.cpu_name() == "arm64 Apple M2 Pro [bf16]"


def test_a_system_without_sysctl_has_no_value() -> None:
    assert machine.read_sysctl("machdep.cpu.brand_string") is None


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
