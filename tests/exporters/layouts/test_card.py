"""The model card names the terms of the weights and the judge's figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dinodeploy.bundle.layout import JudgedGraph
from dinodeploy.bundle.manifest import read_manifest
from exporters.layouts.card import model_card

GRAPH = JudgedGraph("onnx/model.onnx", "fp32", 3_312_153, 7.1e-7, 0.99999994, "onnxruntime 1.32.0")


def test_card(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    card = model_card("mine", manifest, [GRAPH])
    assert "license_name: dinov3-license" in card.split("---")[1]
    assert "| `onnx/model.onnx` | fp32 | 3.3 MB | 7.1e-07 | 0.9999999 |" in card
    assert "**The weights are random" in card
    assert manifest.licence in card
    other = replace(manifest, licence="The weights are under MIT, as the config.json beside them says.")
    assert "dinov3-license" not in model_card("mine", other, [GRAPH])
