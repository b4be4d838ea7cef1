"""Which packages there are; the table says what pyproject.toml says."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import types
from pathlib import Path

import pytest

from dinodeploy.doctor import packages
from dinodeploy.doctor.packages import PACKAGES, Installed, Package, find_packages, onnx_runtimes

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
RUNTIME = Package("some-runtime", "2.0", "tests", "some_runtime")


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What pip is made to know."""
    known: dict[str, str] = {}
    monkeypatch.setattr(packages, "_version", known.get)
    return known


def test_every_minimum_is_the_projects() -> None:
    floors = set(re.findall(r'"([a-z-]+)(?:\[[a-z]+\])?>=([0-9.]+)', PYPROJECT.read_text()))
    for package in PACKAGES:
        assert (package.name, package.minimum) in floors, package


def test_what_is_here() -> None:
    found = find_packages()
    assert list(found) == [package.name for package in PACKAGES]
    assert found["numpy"] == Installed(importlib.metadata.version("numpy"))
    assert "CPUExecutionProvider" in found["onnxruntime"].providers
    assert found["onnxruntime"].works


@pytest.mark.parametrize(
    ("version", "minimum", "older"),
    [("1.20.1", "1.21", True), ("1.21.0", "1.21", False), ("1.9", "1.21", True), ("11", "11", False)],
)
def test_versions_are_numbers_and_not_text(version: str, minimum: str, older: bool) -> None:
    assert Installed(version).older_than(minimum) is older
    assert not Installed(None).older_than(minimum)


def test_a_runtime_that_is_not_there(versions: dict[str, str]) -> None:
    assert packages._find(RUNTIME) == Installed(None)


@pytest.mark.parametrize("error", [OSError("libnvinfer.so.10: cannot open\nmore"), ImportError("libx.so")])
def test_a_runtime_that_does_not_load(
    error: Exception, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions["some-runtime"] = "2.1"

    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    found = packages._find(RUNTIME)
    assert (found.version, found.works) == ("2.1", False)
    assert found.broken == str(error).splitlines()[0]


def test_a_runtime_whose_own_dependency_is_missing_is_broken_and_not_absent(
    versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'other'", name="other")

    monkeypatch.setattr(importlib, "import_module", fail)
    assert packages._find(RUNTIME).broken == "No module named 'other'"


def test_the_modules_own_version_counts(versions: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """JetPack's TensorRT comes by apt, of which pip may know nothing."""
    module = types.SimpleNamespace(__version__="10.3.0", get_available_providers=lambda: ["A", "B"])
    monkeypatch.setattr(importlib, "import_module", lambda name: module)
    assert packages._find(RUNTIME) == Installed("10.3.0", providers=("A", "B"))


def test_several_onnx_runtimes(versions: dict[str, str]) -> None:
    versions |= {"onnxruntime": "1.20", "onnxruntime-gpu": "1.20"}
    assert onnx_runtimes() == ["onnxruntime", "onnxruntime-gpu"]
