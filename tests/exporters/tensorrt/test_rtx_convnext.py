"""TensorRT-RTX parses and builds ConvNeXts, in every recipe and at chosen stages (`test_rtx.py` says how)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinov3_ref.checkpoints import planted_checkpoint
from tests.exporters.tensorrt.test_rtx import build
from tests.support.tiny_models import export_passing, tiny_convnext

# Types of convolutions, the stem's included, and of products. 8-bit products put out HALF.
NARROW = {
    "fp32": ({"FLOAT"}, {"FLOAT"}),
    "fp16": ({"FLOAT", "HALF"}, {"HALF"}),
    "bf16": ({"FLOAT"}, {"BF16"}),
    "int8": ({"FLOAT", "HALF"}, {"HALF"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", NARROW)
def test_every_recipe(tmp_path: Path, recipe: str) -> None:
    checkpoint = planted_checkpoint(tiny_convnext(depths=(1, 1, 3, 1)))
    bundle = export_passing(checkpoint, tmp_path / "bundle", recipe=recipe, layers=(0, 3))
    built = build(bundle.root, "usual")
    inspection = json.loads((bundle.root / f"{built.name}.plan.json").read_text())
    network = inspection["network"]
    assert {value["name"]: value["shape"] for value in network["outputs"]} == {
        "cls": [-1, 128],
        "patch": [-1, -1, -1, 128],
        "layer_0": [-1, -1, -1, 32],
        "layer_3": [-1, -1, -1, 128],
    }
    assert {value["dtype"] for value in (*network["inputs"], *network["outputs"])} == {"FLOAT"}
    convolutions, products = NARROW[recipe]
    assert set(network["layers"]["CONVOLUTION"]) == convolutions
    if not bundle.manifest.graph.given_back:
        assert set(network["layers"]["MATRIX_MULTIPLY"]) == products
    facts = json.loads((bundle.root / "manifest.json").read_text())["engines"][f"{built.name}.plan"]["build"]
    assert facts["profiles"] == [{"min": [1, 96, 96], "opt": [8, 256, 256], "max": [32, 512, 512]}]
