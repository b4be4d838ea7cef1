"""Build options other than profiles, validated when created and against a target."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.backends.tensorrt.refuse import RTX_CAPABILITIES, rtx_runs_on
from dinodeploy.errors import MisuseError, UnavailableError
from exporters.tensorrt.api import COMPUTE_CAPABILITY, SAME_COMPUTE_CAPABILITY, TensorRT, has
from exporters.tensorrt.device import Gpu
from exporters.tensorrt.target import Target

CURRENT = "current"
NOT_COMPATIBLE = "none"
# option -> member of HardwareCompatibilityLevel
HARDWARE_COMPATIBLE = {
    NOT_COMPATIBLE: "NONE",
    "ampere_plus": "AMPERE_PLUS",
    "same_compute_capability": "SAME_COMPUTE_CAPABILITY",
}
LEVELS = range(6)


@dataclass(frozen=True)
class BuildOptions:
    """How to build. Raises MisuseError for an impossible value."""

    workspace: float | None = None  # GiB; None: no limit but the GPU's memory
    timing_cache: Path | None = None
    refit: bool = False
    strip_plan: bool = False
    version_compatible: bool = False
    hardware_compatible: str = NOT_COMPATIBLE
    weight_streaming: bool = False
    level: int | None = None  # 0 (fast build) to 5 (fast engine)
    compute_capabilities: tuple[str, ...] = ()  # "8.9", or "current"; RTX only

    def __post_init__(self) -> None:
        if self.workspace is not None and not 0 < self.workspace < 2**20:
            raise MisuseError(f"--workspace is {self.workspace}; wanted GiB above 0, for instance 4")
        if self.level is not None and self.level not in LEVELS:
            raise MisuseError(f"--level is {self.level}; wanted {LEVELS[0]} to {LEVELS[-1]}")
        if self.hardware_compatible not in HARDWARE_COMPATIBLE:
            raise MisuseError(
                f"--hardware-compatible {self.hardware_compatible!r} is unknown; "
                f"known: {', '.join(HARDWARE_COMPATIBLE)}"
            )
        wanted = self.compute_capabilities
        for name in wanted:
            if name != CURRENT and not re.fullmatch(r"\d+\.\d", name, re.ASCII):
                raise MisuseError(f"--compute-capability {name!r}; wanted for instance 8.9, or {CURRENT}")
        if len(set(wanted)) < len(wanted) or (CURRENT in wanted and len(wanted) > 1):
            raise MisuseError(
                f"--compute-capability {', '.join(wanted)}: wanted each once, and {CURRENT} alone"
            )

    @property
    def refittable(self) -> bool:
        return self.refit or self.strip_plan


def check_options(options: BuildOptions, target: Target, trt: TensorRT, gpu: Gpu | None) -> None:
    """Raises MisuseError for options `target` does not have, UnavailableError for what is impossible here."""
    defaults = BuildOptions()
    for field, why in target.lacks.items():
        if getattr(options, field) != getattr(defaults, field):
            raise MisuseError(f"{_flag(field)} cannot be used with --target {target.name}: {why}")
    for field in target.gpu_only:
        if getattr(options, field) and gpu is None:
            raise UnavailableError(
                f"{_flag(field)} with --target {target.name} needs an NVIDIA driver while it builds, and "
                "this machine has none; leave it out or build on a machine with a GPU"
            )
    if options.hardware_compatible == "same_compute_capability" and not has(trt, SAME_COMPUTE_CAPABILITY):
        raise UnavailableError(
            f"{target.module} {trt.__version__} does not have --hardware-compatible same_compute_capability; "
            "install a later version, or use ampere_plus"
        )
    if CURRENT in options.compute_capabilities and gpu is None:
        raise UnavailableError(
            f"--compute-capability {CURRENT}: no GPU found on this machine; name one, for instance 8.9"
        )
    if CURRENT in options.compute_capabilities and gpu is not None and not rtx_runs_on(gpu):
        raise UnavailableError(
            f"--compute-capability {CURRENT}: TensorRT-RTX has no kernels for {gpu.name} (compute capability "
            f"{gpu.compute_capability}), only for {', '.join(RTX_CAPABILITIES)}; use --target tensorrt"
        )
    _check_compute_capabilities(options, trt)


def _check_compute_capabilities(options: BuildOptions, trt: TensorRT) -> None:
    if not options.compute_capabilities:
        return
    known = known_compute_capabilities(trt)
    for name in options.compute_capabilities:
        if name != CURRENT and name not in known:
            raise UnavailableError(
                f"--compute-capability {name} is not supported here; known: {', '.join(known)}"
            )


def known_compute_capabilities(trt: TensorRT) -> dict[str, str]:
    """Compute capability -> member of `trt.ComputeCapability`: "8.9" -> "SM89", "12.0" -> "SM120"."""
    if not has(trt, COMPUTE_CAPABILITY):
        return {}
    names = [match for name in dir(trt.ComputeCapability) if (match := re.fullmatch(r"SM(\d+)(\d)", name))]
    return {f"{m[1]}.{m[2]}": m[0] for m in sorted(names, key=lambda m: (int(m[1]), int(m[2])))}


def _flag(field: str) -> str:
    names = {"compute_capabilities": "--compute-capability"}
    return names.get(field, "--" + field.replace("_", "-"))
