"""Versions of the packages that dinodeploy uses; for runtimes also whether they load.

Runtimes are imported, because an installed runtime with missing libraries does not work. For packages that
take seconds to import (torch), only the version is read.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dinodeploy.backends.tensorrt.refuse import numbers
from dinodeploy.errors import reason_of

VersionOf = Callable[[str], str | None]  # distribution name -> version


@dataclass(frozen=True)
class Package:
    """One package. minimum: as in pyproject.toml, which a test verifies."""

    name: str  # for pip
    minimum: str
    purpose: str
    module: str = ""  # imported to see whether it loads; empty: only the version is read
    why: str = ""  # the problem with older versions
    link: str = ""

    @property
    def install(self) -> str:
        return f"pip install --upgrade '{self.name}>={self.minimum}'"


PACKAGES: tuple[Package, ...] = (
    Package("numpy", "1.26", "everything"),
    Package("pillow", "11", "everything"),
    Package("safetensors", "0.5", "everything"),
    Package("onnxruntime", "1.20", "graphs on a CPU", "onnxruntime"),
    Package("tensorrt", "10.3", "plans", "tensorrt"),
    Package("tensorrt-rtx", "1.7.1", "plans on RTX GPUs", "tensorrt_rtx"),
    Package("cuda-bindings", "12.6", "plans", "cuda.bindings.runtime"),
    Package("openvino", "2025.2", "graphs on Intel's CPUs"),
    Package("torch", "2.11", "export"),
    Package(
        "onnx",
        "1.21",
        "export",
        why="a foreign graph can make it read any file of yours (CVE-2026-27489)",
        link="https://nvd.nist.gov/vuln/detail/CVE-2026-27489",
    ),
    Package("pyarrow", "17", "parquet"),
    Package("model-signing", "1.1", "signatures"),
)
# Distributions of one module: if several are installed, the later one has overwritten the earlier one.
ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")


@dataclass(frozen=True)
class Installed:
    """The installed state of one package."""

    version: str | None  # None: not installed
    broken: str = ""  # why it cannot be loaded
    providers: tuple[str, ...] = ()  # ONNX Runtime's, best first

    def older_than(self, minimum: str) -> bool:
        return self.version is not None and numbers(self.version) < numbers(minimum)

    @property
    def works(self) -> bool:
        return self.version is not None and not self.broken


def find_packages() -> dict[str, Installed]:
    """Every package of PACKAGES, by name."""
    return {package.name: find_package(package) for package in PACKAGES}


def installed_version(name: str) -> str | None:
    """The version of a distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def onnx_runtimes(version_of: VersionOf = installed_version) -> list[str]:
    """The installed distributions of ONNX Runtime; more than one is a mistake."""
    return [name for name in ONNX_RUNTIMES if version_of(name)]


def find_package(
    package: Package,
    *,
    version_of: VersionOf = installed_version,
    load: Callable[[str], Any] = importlib.import_module,
) -> Installed:
    """The installed state of `package`; its module is loaded if it names one."""
    version = version_of(package.name)
    if not package.module:
        return Installed(version)
    try:
        module = load(package.module)
    except Exception as error:  # third-party libraries raise all kinds of errors
        missing = f"{error.name}." if isinstance(error, ModuleNotFoundError) else "?"
        if version is None and f"{package.module}.".startswith(missing):
            return Installed(None)
        return Installed(version or "unknown version", reason_of(error))
    found = str(getattr(module, "__version__", None) or version or "unknown version")
    return Installed(found, providers=tuple(getattr(module, "get_available_providers", tuple)()))
