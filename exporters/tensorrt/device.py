"""The GPU and driver of the machine that builds: a TensorRT plan runs on the GPU it was built on."""

from __future__ import annotations

from dinodeploy.errors import UnavailableError
from dinodeploy.hardware import devices as machine
from dinodeploy.hardware.devices import Gpu

__all__ = ["Gpu", "find_gpu"]


def find_gpu() -> Gpu | None:
    """The GPU of this machine, or None without a driver or device: RTX builds without one."""
    try:
        return machine.find_gpu()
    except UnavailableError:
        return None
