"""The recipe with a residual stream in bf16: judged, and refused where the stream has to be exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from dinodeploy import JudgementError, MisuseError
from dinov3_ref.checkpoints import Checkpoint, random_checkpoint
from exporters.graph.summary import types_by_role
from exporters.precision.recipes import BF16
from tests.support.tiny_models import export_passing, tiny_config, tiny_convnext

RECIPE = "bf16-residual"
DEPTH = 3


def cancelling(size: float) -> Checkpoint:
    """A model that adds `size` to two residual channels in its first block and takes it away in its last."""
    checkpoint = random_checkpoint(tiny_config("mlp"), 0)
    state = dict(checkpoint.state)
    for block, sign in ((0, 1), (DEPTH - 1, -1)):
        gain = state.get(f"blocks.{block}.ls2.gamma")
        bias = state[f"blocks.{block}.mlp.fc2.bias"].clone()
        for channel in (3, 40):
            bias[channel] += sign * size / (float(gain[channel]) if gain is not None else 1.0)
        state[f"blocks.{block}.mlp.fc2.bias"] = bias
    return replace(checkpoint, state=state)


def test_the_stream_is_in_bf16_from_sum_to_sum(tmp_path: Path) -> None:
    bundle = export_passing(random_checkpoint(tiny_config("mlp"), 0), tmp_path / "b", recipe=RECIPE)
    graph = ir.load(bundle.root / "model.onnx").graph
    assert types_by_role(graph)["residual"] == {"BFLOAT16": 2 * DEPTH}
    sums = [node for node in graph if node.op_type == "Add" and str(node.name).startswith("blocks.")]
    stream = [node for node in sums if str(node.name).count(".") < 2 or "/Add.1" in str(node.name)]
    produced = {node.outputs[0] for node in stream}
    read = [value for node in stream for value in node.inputs if value in produced]
    assert len(read) == 2 * DEPTH - 1, "no cast to fp32 in between"
    assert all(value.type == ir.TensorType(BF16) for value in read)


def test_massive_activations_that_cancel_are_refused_in_one_line(tmp_path: Path) -> None:
    export_passing(cancelling(1e5), tmp_path / "b", recipe="bf16")
    with pytest.raises(JudgementError) as caught:
        export_passing(cancelling(1e5), tmp_path / "c", recipe=RECIPE)
    message = str(caught.value)
    assert "the residual stream reaches 100,0" in message
    assert "bf16 counts in steps of 512: use --precision bf16, whose stream is fp32" in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "c").exists()


def test_a_model_without_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="is for transformer blocks, and this model has none; use bf16"):
        export_passing(random_checkpoint(tiny_convnext(), 0), tmp_path / "b", recipe=RECIPE)
