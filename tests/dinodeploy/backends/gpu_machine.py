"""Pretend that this machine has a GPU, CUDA and TensorRT, and that bundles hold plans for it."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.bundle.bundle import file_facts
from dinodeploy.bundle.manifest import (
    MODEL_FILE,
    BuildFacts,
    EngineFacts,
    ProfileFacts,
    read_manifest,
    write_manifest,
)
from dinodeploy.hardware import devices as machine
from tests.dinodeploy.backends.fake_cuda import FakeCuda
from tests.dinodeploy.backends.fake_tensorrt import FakeTensorRT, read_api, real_api, write_plan

DRIVER = "570.86.15"
NAME = "NVIDIA L4"
DEVICE = "cuda: NVIDIA L4 sm_89 driver 570.86.15"
PROFILES: tuple[ProfileFacts, ...] = (
    ProfileFacts((1, 32, 32), (2, 256, 256), (4, 320, 320)),
    ProfileFacts((1, 32, 32), (8, 64, 64), (16, 96, 96)),
)


class FakeDriver:
    """libcuda: one L4, or as many GPUs as said."""

    def __init__(self, count: int = 1, status: int = 0) -> None:
        self.count, self.status = count, status

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = NAME.encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = {75: 8, 76: 9}[attribute]
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 12080
        return 0


@contextmanager
def no_gpu(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """While open this machine has no GPU, unless one is pretended, and keeps receipts in `folder`."""
    patch.setattr(machine, "DRIVER_LIBRARY", "libnothing_of_that_name.so")
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    machine.find_gpu.cache_clear()
    yield
    machine.find_gpu.cache_clear()


def pretend_gpu(patch: pytest.MonkeyPatch, folder: Path, driver: FakeDriver | None = None) -> None:
    """This machine has a GPU and its driver."""
    version = folder / "nvidia_version"
    version.write_text(f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {DRIVER}  Release Build\n")
    patch.setattr(machine, "DRIVER_VERSION", version)
    patch.setattr(machine, "load_driver", lambda: driver or FakeDriver())
    machine.find_gpu.cache_clear()


def pretend_tensorrt(patch: pytest.MonkeyPatch, api: str = "10.3") -> FakeTensorRT:
    """TensorRT of one version ("rtx": as the installed TensorRT-RTX) and cuda-bindings are installed."""
    cuda = FakeCuda()
    if api == "rtx":
        real = pytest.importorskip("tensorrt_rtx", reason="published for Linux on x86-64 only")
        module = FakeTensorRT(real_api(real), cuda, "tensorrt_rtx", real.__version__)
    else:
        module = FakeTensorRT(read_api(api), cuda, version=f"{api}.0")
    bindings = types.ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    patch.setitem(sys.modules, "cuda.bindings", bindings)
    patch.setitem(sys.modules, module.__name__, module)  # type: ignore[misc]
    return module


def build_facts(root: Path, module: Any, **changes: Any) -> BuildFacts:
    """What `dinodeploy build` would say of a plan built here."""
    facts = BuildFacts(
        runtime=f"{module.__name__} {module.__version__}",
        source=MODEL_FILE,
        source_sha256=read_manifest(root).engine_sha256(MODEL_FILE),
        profiles=PROFILES,
        compute_capabilities=("8.9",),
        driver=DRIVER,
        version_compatible=False,
        hardware_compatible="none",
        refittable=False,
        stripped=False,
        weight_streaming=False,
        optimization_level=3,
    )
    return replace(facts, **changes)


@dataclass(frozen=True)
class Plan:
    path: Path
    facts: BuildFacts


def add_plan(
    root: Path,
    module: FakeTensorRT,
    name: str = "model.plan",
    *,
    plan: Any = None,
    cls_of: str | None = None,
    **changes: Any,
) -> Plan:
    """Put a plan into a bundle as a build does; `changes` go into its facts, `plan` into itself.

    cls_of: the whole plan that it computes CLS of.
    """
    facts = build_facts(root, module, **changes)
    profiles = [[list(p.min), list(p.opt), list(p.max)] for p in facts.profiles]
    write_plan(root / name, root / MODEL_FILE, *profiles, stripped=facts.stripped, **(plan or {}))
    manifest = read_manifest(root)
    outputs = ("cls",) if cls_of is not None else ()
    engine = EngineFacts(module.__name__, (name,), facts, outputs=outputs, same_numbers_as=cls_of)
    write_manifest(
        replace(
            manifest,
            engines={**manifest.engines, name: engine},
            files={**manifest.files, name: file_facts(root / name)},
        ),
        root,
    )
    return Plan(root / name, facts)
