"""Graphs that take bytes build in TensorRT-RTX: one kernel makes the first convolution's input of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinov3_ref.checkpoints import random_checkpoint
from exporters.tensorrt.add_engine import EngineRequest, add_engine
from tests.support.tiny_models import export_passing, tiny_config

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")


@pytest.mark.slow
def test_bytes(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_config(depth=2))
    root = export_passing(checkpoint, tmp_path / "b", recipe="fp16", input="uint8", imgsz=(64, 96)).root
    add_engine(root, EngineRequest(target="rtx", batch=("1:2:4",), imgsz=("32x48:64x96:256x192",)))
    inspection = json.loads((root / "model.plan.json").read_text())
    assert inspection["network"]["inputs"] == [{"name": "pixels", "dtype": "UINT8", "shape": [-1, -1, -1, 3]}]
    (widening,) = (
        layer
        for layer in inspection["builder"]
        if "Name: pixels, Dimensions" in layer.partition("Outputs:")[0] and "LayerType: kgen" in layer
    )
    assert all(step in widening.partition(",")[0] for step in ("Cast", "Add", "Mul", "Tran")), widening
    (shapes,) = (layer for layer in inspection["builder"] if layer.startswith("Name: pixels, IOMode: Input"))
    assert "MinShape: [1,32,48,3], OptShape: [2,64,96,3], MaxShape: [4,256,192,3]" in shapes
    (made,) = (layer for layer in inspection["builder"] if "correlation" in layer or "Corr" in layer)
    given = made.partition("Inputs:")[2].partition("Constants:")[0]
    assert "Datatype: Half" in given
