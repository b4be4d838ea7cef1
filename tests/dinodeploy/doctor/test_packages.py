"""Installed packages; the table of minimum versions equals pyproject.toml."""

from __future__ import annotations

import importlib.metadata
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.doctor.packages import (
    PACKAGES,
    Installed,
    Package,
    find_package,
    find_packages,
    onnx_runtimes,
)

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
RUNTIME = Package("some-runtime", "2.0", "tests", "some_runtime")


def test_minimum_versions_equal_pyproject() -> None:
    floors = set(re.findall(r'"([a-z-]+)(?:\[[a-z]+\])?>=([0-9.]+)', PYPROJECT.read_text()))
    for package in PACKAGES:
        assert (package.name, package.minimum) in floors, package


def test_packages_of_this_environment() -> None:
    found = find_packages()
    assert list(found) == [package.name for package in PACKAGES]
    assert found["numpy"] == Installed(importlib.metadata.version("numpy"))
    assert "CPUExecutionProvider" in found["onnxruntime"].providers
    assert found["onnxruntime"].works


@pytest.mark.parametrize(
    ("version", "minimum", "older"),
    [("1.20.1", "1.21", True), ("1.21.0", "1.21", False), ("1.9", "1.21", True), ("11", "11", False)],
)
def test_versions_are_compared_as_numbers(version: str, minimum: str, older: bool) -> None:
    assert Installed(version).older_than(minimum) is older
    assert not Installed(None).older_than(minimum)


def test_a_missing_runtime() -> None:
    assert find_package(RUNTIME, version_of={}.get) == Installed(None)


@pytest.mark.parametrize("error", [OSError("libnvinfer.so.10: cannot open\nmore"), ImportError("libx.so")])
def test_a_runtime_that_cannot_be_loaded(error: Exception) -> None:
    found = find_package(RUNTIME, version_of={"some-runtime": "2.1"}.get, load=raising(error))
    assert (found.version, found.works) == ("2.1", False)
    assert found.broken == str(error).splitlines()[0]


def test_a_runtime_with_a_missing_dependency_is_broken_and_not_absent() -> None:
    error = ModuleNotFoundError("No module named 'other'", name="other")
    found = find_package(RUNTIME, version_of={}.get, load=raising(error))
    assert found.broken == "No module named 'other'"


def test_the_version_of_the_module_takes_precedence() -> None:
    """JetPack installs TensorRT with apt, so pip may not know it."""
    module = types.SimpleNamespace(__version__="10.3.0", get_available_providers=lambda: ["A", "B"])
    found = find_package(RUNTIME, version_of={}.get, load=lambda name: module)
    assert found == Installed("10.3.0", providers=("A", "B"))


def test_several_distributions_of_onnx_runtime() -> None:
    versions = {"onnxruntime": "1.20", "onnxruntime-gpu": "1.20"}
    assert onnx_runtimes(versions.get) == ["onnxruntime", "onnxruntime-gpu"]


def raising(error: Exception) -> Callable[[str], Any]:
    """A `load` that fails with `error`."""

    def load(name: str) -> Any:
        raise error

    return load
