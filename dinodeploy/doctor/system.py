"""Facts about this machine: operating system, CPU, memory, container limits, GPU, JetPack.

Read from Linux's files (`hardware/cores.py`) and the CUDA driver (`hardware/devices.py`). Unknown facts are
None. Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max), cgroup version 1
(memory.limit_in_bytes), and Jetson's /etc/nv_tegra_release.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.errors import UnavailableError
from dinodeploy.hardware.cores import control_groups, hardware_threads, read_text
from dinodeploy.hardware.devices import Gpu, find_cpu, find_gpu

# Kernel name -> usual name, of the instruction sets that decide which kernels a CPU runtime uses.
FEATURES: dict[str, dict[str, str]] = {
    "x86_64": {
        "avx2": "AVX2",
        "avx512f": "AVX-512",
        "avx_vnni": "AVX-VNNI",
        "avx512_vnni": "AVX-512 VNNI",
        "avx512_bf16": "AVX-512 BF16",
        "amx_int8": "AMX INT8",
        "amx_bf16": "AMX BF16",
    },
    "aarch64": {
        "asimd": "NEON",
        "asimdhp": "FP16",
        "asimddp": "dot product",
        "i8mm": "I8MM",
        "bf16": "BF16",
        "sve": "SVE",
    },
}
_JETPACK = {35: "5", 36: "6", 38: "7"}  # by the major version of Jetson Linux
_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI vendor, and the device class of GPUs
_UNLIMITED = 1 << 60  # cgroup version 1 writes a number near 2**63 for no limit


@dataclass(frozen=True)
class System:
    """Facts about this machine. Sizes in bytes."""

    system: str  # "Linux 6.1.0"
    architecture: str  # "x86_64"
    python: str
    cpu: str
    features: tuple[str, ...] | None  # those of FEATURES that the CPU has
    cores: int
    cores_allowed: float  # by affinity and container quota
    memory: int | None
    memory_allowed: int | None  # the container limit, or all memory
    gpu: Gpu | None
    no_gpu: str  # why no GPU can be used
    gpu_on_bus: bool  # there is an NVIDIA GPU on the PCI bus, with or without driver
    kernel_driver: bool  # the NVIDIA driver is loaded, even if this process cannot use it
    jetson_linux: str | None  # "36.4.3"
    jetpack: str | None  # its major version


def find_system(root: Path = Path("/")) -> System:
    """Find the facts about this machine. `root`: the folder of the system files."""
    cpu, architecture = find_cpu(), platform.machine()
    known = FEATURES.get({"AMD64": "x86_64", "arm64": "aarch64"}.get(architecture, architecture), {})
    memory = _memory(root)
    limit = min(_memory_limits(root), default=None)
    release = _jetson_linux(root)
    gpu, no_gpu = None, ""
    try:
        gpu = find_gpu()
    except UnavailableError as error:
        no_gpu = str(error)
    return System(
        system=f"{platform.system()} {platform.release()}",
        architecture=architecture,
        python=platform.python_version(),
        cpu=cpu.model,
        features=None if cpu.features is None else tuple(known[f] for f in known if f in cpu.features),
        cores=os.cpu_count() or 1,
        cores_allowed=hardware_threads(root),
        memory=memory,
        memory_allowed=memory if limit is None else min(limit, memory or limit),
        gpu=gpu,
        no_gpu=no_gpu,
        gpu_on_bus=_gpu_on_bus(root),
        kernel_driver=(root / "proc/driver/nvidia/version").exists(),
        jetson_linux=release,
        jetpack=_JETPACK.get(int(release.partition(".")[0])) if release else None,
    )


def _memory(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", read_text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _memory_limits(root: Path) -> Iterator[int]:
    for folder in control_groups(root, "memory"):
        text = (read_text(folder / "memory.max") or read_text(folder / "memory.limit_in_bytes")).strip()
        if text.isdigit() and int(text) < _UNLIMITED:
            yield int(text)


def _gpu_on_bus(root: Path) -> bool:
    return any(
        read_text(device / "vendor").strip() == _NVIDIA and read_text(device / "class").startswith(_DISPLAY)
        for device in (root / "sys/bus/pci/devices").glob("*")
    )


def _jetson_linux(root: Path) -> str | None:
    """`# R36 (release), REVISION: 4.3, GCID: …` -> "36.4.3"."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read_text(root / "etc/nv_tegra_release"))
    return f"{found[1]}.{found[2]}" if found else None
