"""Identify this machine's CPU and GPU for receipts; the GPU through CUDA's driver."""

from __future__ import annotations

import ctypes
import functools
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinodeploy.errors import UnavailableError

# Instruction sets that change which kernels a CPU runtime picks, and with them the last bits. Their names are
# the kernel's: https://docs.kernel.org/arch/arm64/elf_hwcaps.html for Arm. "sme" of x86 is memory encryption.
_KERNEL_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "sve",
)
_ARM_FLAGS = ("fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme", "sme2")
# Apple's names for some of them: https://developer.apple.com/documentation/kernel/1387446-sysctlbyname
_APPLE_FLAGS = {
    "fphp": "hw.optional.arm.FEAT_FP16",
    "asimddp": "hw.optional.arm.FEAT_DotProd",
    "i8mm": "hw.optional.arm.FEAT_I8MM",
    "bf16": "hw.optional.arm.FEAT_BF16",
    "sme": "hw.optional.arm.FEAT_SME",
    "sme2": "hw.optional.arm.FEAT_SME2",
}
_BRAND_BYTES = 256
TEGRA_RELEASE = Path("/etc/nv_tegra_release")  # on every Jetson
CPUINFO = Path("/proc/cpuinfo")

# CUDA's driver library is wherever a driver is, Jetson and WSL included, and needs no package.
DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
DRIVER_VERSION = Path("/proc/driver/nvidia/version")
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute in cuda.h
_NAME_BYTES = 256


@dataclass(frozen=True)
class Cpu:
    """The processor, as reported by the kernel."""

    model: str  # "AMD EPYC 9654"; on Arm, which has no name, "implementer 0x41 part 0xd0b"
    features: frozenset[str] | None  # as the kernel names them; None if unknown
    arm: bool = False


def find_cpu() -> Cpu:
    """Model and instruction sets of this machine's CPU. On Arm, the parts of all its kinds of cores."""
    fields: dict[str, str] = {}
    cores: dict[tuple[str, str], None] = {}
    implementer = ""
    if CPUINFO.exists():
        for line in CPUINFO.read_text(errors="replace").splitlines():
            key, value = (text.strip() for text in (f"{line}:").split(":")[:2])
            fields.setdefault(key.lower(), value)
            if key == "CPU implementer":
                implementer = value
            elif key == "CPU part":
                cores[implementer, value] = None
    elif platform.system() == "Darwin" and platform.machine() == "arm64":
        present = {flag for flag, name in _APPLE_FLAGS.items() if any(read_sysctl(name) or b"")}
        return Cpu(
            (read_sysctl("machdep.cpu.brand_string") or b"Apple").decode(), frozenset(present), arm=True
        )
    listed = fields.get("flags") or fields.get("features")
    features = frozenset(listed.split()) if listed else None
    if cores:
        named = [f"implementer {maker} part {part}" for maker, part in sorted(cores)]
        return Cpu(" + ".join(named), features, arm=True)
    known = (fields.get(key) for key in ("model name", "cpu model", "uarch", "cpu"))
    return Cpu(next(filter(None, known), "") or platform.processor() or "unknown CPU", features)


def read_sysctl(name: str) -> bytes | None:
    """A value of macOS's `sysctl`; None if it has none. A text comes without its final zero."""
    try:
        call = ctypes.CDLL(None).sysctlbyname
    except (AttributeError, OSError, TypeError):
        return None
    value, size = ctypes.create_string_buffer(_BRAND_BYTES), ctypes.c_size_t(_BRAND_BYTES)
    if call(name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0)):
        return None
    return value.raw[: size.value].rstrip(b"\0")


@functools.cache
def cpu_name() -> str:
    """Architecture, model and the instruction sets that matter, e.g. `x86_64 AMD EPYC [avx2 avx512f]`."""
    flags = " ".join(cpu_flags())
    return f"{platform.machine()} {find_cpu().model}" + (f" [{flags}]" if flags else "")


def cpu_flags() -> tuple[str, ...]:
    """The instruction sets that matter, of those this CPU has; empty if unknown."""
    cpu = find_cpu()
    present = cpu.features or frozenset()
    return tuple(flag for flag in (_ARM_FLAGS if cpu.arm else _KERNEL_FLAGS) if flag in present)


@dataclass(frozen=True)
class Gpu:
    """The first GPU that CUDA shows this process (CUDA_VISIBLE_DEVICES decides which that is)."""

    name: str  # "NVIDIA H200"
    compute_capability: str  # "9.0"
    driver: str  # "580.65.06", or "CUDA 13.0" if only that is known

    @property
    def device(self) -> str:
        """As receipts name it."""
        return f"cuda: {self.name} sm_{self.compute_capability.replace('.', '')} driver {self.driver}"


def is_jetson() -> bool:
    """Whether this is a Jetson, where CUDA and TensorRT are packages of the system."""
    return TEGRA_RELEASE.exists()


@functools.cache
def find_gpu() -> Gpu:
    """The GPU that engines run on. Raises UnavailableError, one line, without a GPU."""
    driver = load_driver()
    status = driver.cuInit(0)
    count = ctypes.c_int()
    status = status or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        raise UnavailableError(
            f"the NVIDIA driver shows no GPU (cuInit: {status}); see nvidia-smi and CUDA_VISIBLE_DEVICES, "
            "or run the bundle with --device cpu"
        )
    device = ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    driver.cuDeviceGetName(name, _NAME_BYTES, device)
    capability = (_attribute(driver, device, which) for which in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
    return Gpu(name.value.decode(errors="replace"), ".".join(map(str, capability)), _driver_version(driver))


def load_driver() -> Any:
    try:
        return ctypes.CDLL(DRIVER_LIBRARY)
    except OSError as error:
        raise UnavailableError(
            f"no NVIDIA driver here ({DRIVER_LIBRARY} cannot be loaded); go to a machine with a GPU, or run "
            "the bundle with --device cpu"
        ) from error


def _attribute(driver: Any, device: ctypes.c_int, attribute: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value


def _driver_version(driver: Any) -> str:
    """The driver release if the kernel reports it, else the newest CUDA version that it supports."""
    if DRIVER_VERSION.exists():
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", DRIVER_VERSION.read_text(errors="replace"))
        if found:
            return found.group()
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
