"""Which packages of ours are installed, in which version; of runtimes also whether they load.

Runtimes are imported, because one whose libraries are missing is installed and useless all the same. What
takes seconds to import (torch) is asked for its version only.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from dataclasses import dataclass
from typing import Any

from dinodeploy.backends.tensorrt.refuse import numbers
from dinodeploy.errors import reason_of


@dataclass(frozen=True)
class Package:
    """One package that we use. `minimum` is pyproject.toml's, which a test holds against this table."""

    name: str  # as pip knows it
    minimum: str
    purpose: str
    module: str = ""  # imported to see whether it loads; empty: its version is enough
    why: str = ""  # what is bad about older ones
    link: str = ""

    @property
    def install(self) -> str:
        return f"pip install --upgrade '{self.name}>={self.minimum}'"


PACKAGES: tuple[Package, ...] = (
    Package("numpy", "1.26", "everything"),
    Package("pillow", "11", "everything"),
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
# One module, several distributions: installed together, the later one has overwritten the earlier one.
ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")


@dataclass(frozen=True)
class Installed:
    """What is there of one package."""

    version: str | None  # None: not installed
    broken: str = ""  # why it does not load
    providers: tuple[str, ...] = ()  # ONNX Runtime's, best first

    def older_than(self, minimum: str) -> bool:
        return self.version is not None and numbers(self.version) < numbers(minimum)

    @property
    def works(self) -> bool:
        return self.version is not None and not self.broken


def find_packages() -> dict[str, Installed]:
    """Every package of PACKAGES, by its name."""
    return {package.name: _find(package) for package in PACKAGES}


def onnx_runtimes() -> list[str]:
    """The distributions of ONNX Runtime that are installed; more than one is a mistake."""
    return [name for name in ONNX_RUNTIMES if _version(name)]


def _find(package: Package) -> Installed:
    version = _version(package.name)
    if not package.module:
        return Installed(version)
    try:
        module = importlib.import_module(package.module)
    except Exception as error:  # foreign libraries fail in their own ways
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "") in _parents(package.module)
        if absent and version is None:
            return Installed(None)
        return Installed(version or "unknown version", reason_of(error))
    found = str(getattr(module, "__version__", None) or version or "unknown version")
    return Installed(found, providers=_providers(module))


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _providers(module: Any) -> tuple[str, ...]:
    ask = getattr(module, "get_available_providers", None)
    return tuple(ask()) if ask else ()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
