"""After an export: an engine is built where TensorRT and a GPU are, and a failed build keeps the bundle."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.bundle.manifest import read_manifest
from dinodeploy.errors import ExportError, UnavailableError
from exporters.tensorrt.after_export import engine_after_export
from exporters.tensorrt.device import Gpu
from tests.exporters.tensorrt.fake_builder import FakeTensorRT, pretend_ada


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT and a GPU, which an export finds too."""
    fake = pretend_ada(monkeypatch)
    monkeypatch.setattr("exporters.tensorrt.target.find_gpu", lambda: Gpu("NVIDIA", "8.9", "580.65.06"))
    return fake


def test_no_engine_is_none(own_bundle: Path, gpu: FakeTensorRT) -> None:
    bundle = open_bundle(own_bundle)
    assert engine_after_export(bundle, None, no_engine=True) == (bundle, ())
    assert gpu.calls == []


def test_unasked_nothing_is_built_without_a_gpu(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX, which could, is installed where these tests run."""
    monkeypatch.setattr("exporters.tensorrt.target.find_gpu", lambda: None)
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT("11.4"))
    bundle = open_bundle(own_bundle)
    assert engine_after_export(bundle, None, no_engine=False) == (bundle, ())


def test_a_failed_build_keeps_the_bundle(own_bundle: Path, gpu: FakeTensorRT) -> None:
    gpu.answer("Builder.build_serialized_network", lambda _, network, config: None)
    with pytest.raises(ExportError) as caught:
        engine_after_export(open_bundle(own_bundle), None, no_engine=False)
    assert str(caught.value).endswith(f"(the bundle {own_bundle} itself is done)")
    assert "model.plan" not in read_manifest(own_bundle).engines


def test_a_version_known_to_be_wrong_is_a_note_unasked_and_an_error_when_asked(
    own_bundle: Path, gpu: FakeTensorRT
) -> None:
    gpu.__version__ = "10.4.0"
    bundle = open_bundle(own_bundle)
    made, (note,) = engine_after_export(bundle, None, no_engine=False)
    assert made is bundle
    assert note.startswith("no engine was built: tensorrt 10.4 is known to be wrong")
    with pytest.raises(UnavailableError, match=r"issues/4742.*itself is done"):
        engine_after_export(bundle, "tensorrt", no_engine=False)
