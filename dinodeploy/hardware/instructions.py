"""Sets of CPU instructions that a graph may need to be right, by the names that manifests use.

`vnni`: sums of u8·s8 products in 32 bits (VPDPBUSD). Without it x86 adds pairs in 16 bits and saturates
(VPMADDUBSW), which changes results silently (Intel, Intrinsics Guide: _mm256_maddubs_epi16).
"""

from __future__ import annotations

from collections.abc import Collection

from dinodeploy.hardware.devices import find_cpu

VNNI = ("vnni",)  # an engine's instructions
# set -> the kernel's names of the extensions that have it; one is enough
EXTENSIONS: dict[str, tuple[str, ...]] = {"vnni": ("avx512_vnni", "avx_vnni")}


def missing_instructions(needed: Collection[str], features: Collection[str] | None = None) -> tuple[str, ...]:
    """Those of `needed` that a CPU lacks, or is not known to have; one that this version does not know too.

    features: of the CPU, by the kernel's names; default: this machine's.
    """
    if needed and features is None:
        features = find_cpu().features
    present = set(features or ())
    return tuple(name for name in needed if not present & set(EXTENSIONS.get(name, ())))
