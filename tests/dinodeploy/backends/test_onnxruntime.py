"""The ONNX Runtime backend, and the table that it stands in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.backends import BACKENDS, open_backend
from dinodeploy.errors import BundleError, UnavailableError


def test_outputs_come_by_name(tiny_bundle: Path) -> None:
    backend = open_backend("onnxruntime", tiny_bundle / "model.onnx", threads=1)
    outputs = backend.run(np.zeros((1, 3, 32, 48), np.float32))
    assert list(outputs) == ["cls", "storage", "patch", "layer_1"]
    assert backend.runtime.startswith("onnxruntime ")
    assert backend.device.startswith("cpu: ")
    assert "dinodeploy.facts" in backend.metadata
    backend.close()


def test_no_graph_no_session(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x00" * 100)
    with pytest.raises(BundleError, match="cannot load it") as caught:
        open_backend("onnxruntime", tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_a_missing_runtime_says_how_to_get_it(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnavailableError, match="pip install onnxruntime"):
        open_backend("onnxruntime", tiny_bundle / "model.onnx")


def test_an_unknown_backend_names_the_known_ones(tiny_bundle: Path) -> None:
    with pytest.raises(UnavailableError, match=f"'abacus'; this version has: {', '.join(BACKENDS)}"):
        open_backend("abacus", tiny_bundle / "model.onnx")
