"""Recipes of whole models: the backbone's layers follow the recipe, the head its own precision."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinodeploy.parity.measurement import Verdict
from exporters.bundle.options import ExportOptions
from exporters.graph.files import read_onnx
from exporters.graph.summary import stored_type
from exporters.modules import export_task
from tests.support.whole_models import tiny_task

# precision of the backbone, of the head -> head_error: measured
LIMITS = {("fp16", "fp16"): 1e-3, ("int8", "fp32"): 2e-2}  # 2.2e-4, 5.7e-3


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "head"), LIMITS)
def test_each_part_has_its_type(recipe: str, head: str, tmp_path: Path) -> None:
    options = ExportOptions(recipe=recipe, head_precision=head)
    bundle, _ = export_task(tiny_task(depth=2), tmp_path / "bundle", options)
    types = {
        str(node.name).partition("/")[0]: stored_type(node.inputs[0])
        for node in read_onnx(bundle.root / "model.onnx").graph
        if node.op_type in ("MatMul", "Conv", "ConvTranspose") and node.inputs[0] is not None
    }
    wanted = {"fp16": "FLOAT16", "int8": "INT8", "fp32": "FLOAT"}
    attention = "q" if recipe == "int8" else "qkv"  # one product on GPUs, but in 8 bits
    assert types[f"backbone.blocks.1.attn.{attention}"] == wanted[recipe]
    assert {types["decoder.0"], types["decoder.3"]} == {wanted[head]}
    assert types["backbone.patch_embed.proj"] == ("FLOAT" if recipe == "fp32" else "FLOAT16")
    assert bundle.receipt is not None
    error = Verdict(recipe, bundle.receipt.measurements).worst("head_error")
    assert error is not None
    assert error < LIMITS[recipe, head]
