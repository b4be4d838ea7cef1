"""What this machine is, as far as a receipt must know it."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

# Instruction sets that change which kernels a CPU runtime picks, and with them the last bits.
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
_CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def cpu_name() -> str:
    """Architecture, model and the instruction sets that matter, e.g. `x86_64 AMD EPYC [avx2 avx512f]`."""
    fields: dict[str, str] = {}
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip().lower(), value.strip())
    model = fields.get("model name") or platform.processor() or "unknown CPU"
    present = set((fields.get("flags") or fields.get("features") or "").split())
    flags = " ".join(flag for flag in _KERNEL_FLAGS if flag in present)
    return f"{platform.machine()} {model}" + (f" [{flags}]" if flags else "")
