"""Attention as ONNX Runtime's own operators: the same numbers, and only where it is the dialect's own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from torch import Tensor, nn

from dinodeploy.bundle.bundle import open_bundle
from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.layers import SelfAttention
from dinov3_ref.models import DinoVisionTransformer
from exporters.graph.cls_only import cut_to_cls
from exporters.graph.files import write_onnx
from exporters.graph.fuse_attention import fuse_attention, has_rotary_attention
from exporters.graph.lint import lint
from tests.support.graphs import graph_of
from tests.support.images.photographs import pixels
from tests.support.tiny_models import export_passing, export_tiny, tiny_config, tiny_convnext

DEPTH = 3
# one patch; off-square both ways; a batch; more tokens than attention takes at a time
SIZES = ((1, 16, 16), (3, 48, 112), (2, 224, 64), (1, 512, 512))
PHOTOS = ("chelsea", "coffee", "rocket")


def run(graph: ir.Model, path: Path, x: Tensor) -> list[np.ndarray]:
    write_onnx(graph, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"pixels": x.numpy()}))


def operators(graph: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph)


def assert_close(fused: ir.Model, plain: ir.Model, folder: Path) -> None:
    x = pixels(PHOTOS[:2], 64, 96)
    for one, other in zip(run(fused, folder / "a.onnx", x), run(plain, folder / "b.onnx", x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "swiglu", "7b"])
@pytest.mark.parametrize("cls_only", [False, True])
def test_the_same_numbers_at_every_size(kind: str, cls_only: bool, tmp_path: Path) -> None:
    graph = graph_of(build_model(random_checkpoint(tiny_config(kind))), layers=() if cls_only else (1,))
    plain = cut_to_cls(graph, DEPTH - 1) if cls_only else graph
    fused = plain.clone()
    assert fuse_attention(fused) == DEPTH
    lint(fused, "cpu")
    found = operators(fused)
    assert (found["MultiHeadAttention"], found["RotaryEmbedding"], found["Softmax"]) == (DEPTH, 2 * DEPTH, 0)
    for batch, height, width in SIZES:
        x = pixels(PHOTOS[:batch], height, width)
        wanted, got = run(plain, tmp_path / "plain.onnx", x), run(fused, tmp_path / "fused.onnx", x)
        for one, other in zip(got, wanted, strict=True):
            assert one.shape == other.shape
            assert np.linalg.norm(one - other) <= 2e-6 * np.linalg.norm(other)  # 7e-7 measured


def test_every_table_is_halved_once() -> None:
    graph = graph_of(build_model(random_checkpoint(tiny_config("mlp"))))
    fuse_attention(graph)
    assert [str(node.name).rpartition("/")[2] for node in graph.graph if node.op_type == "Slice"].count(
        "half"
    ) == 2


def test_the_attention_output_keeps_what_it_needs(tmp_path: Path) -> None:
    """It has a softmax of its own, over the same keys."""
    graph = graph_of(build_model(random_checkpoint(tiny_config("mlp"))), attention=True)
    plain = graph.clone()
    assert fuse_attention(graph) == DEPTH
    assert operators(graph)["Softmax"] == 1
    assert_close(graph, plain, tmp_path)


def test_scores_that_something_else_looks_at_stay() -> None:
    graph = graph_of(build_model(random_checkpoint(tiny_config("mlp"))))
    softmax = next(node for node in graph.graph if node.op_type == "Softmax")
    graph.graph.outputs.append(softmax.outputs[0])
    assert fuse_attention(graph) == DEPTH - 1
    assert operators(graph)["Softmax"] == 1


class OwnAttention(SelfAttention):
    """A user's own: softmax over scores that are squared first."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2)).square().softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


def test_a_users_own_attention_stays_as_it_is(tmp_path: Path) -> None:
    model = build_model(random_checkpoint(tiny_config("mlp")))
    assert isinstance(model, DinoVisionTransformer)
    for block in model.blocks:
        block.attn.__class__ = OwnAttention
    graph = graph_of(model)
    assert not has_rotary_attention(graph)
    plain = graph.clone()
    assert fuse_attention(graph) == 0
    assert operators(graph) == operators(plain)
    assert "com.microsoft" not in graph.opset_imports


def test_without_rope_there_is_nothing_to_rotate(tmp_path: Path) -> None:
    model = build_model(random_checkpoint(tiny_config("mlp")))
    assert isinstance(model, DinoVisionTransformer)

    class NoRope(nn.Module):
        def forward(self, *, H: int, W: int) -> None:
            return None

    model.rope_embed = NoRope()  # type: ignore[assignment]
    graph = graph_of(model)
    plain = graph.clone()
    assert fuse_attention(graph) == DEPTH
    assert operators(graph)["RotaryEmbedding"] == 0
    assert_close(graph, plain, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "fused"), [("fp32", True), ("int8", True), ("bf16", False)])
def test_which_graphs_have_it(recipe: str, fused: bool, tmp_path: Path) -> None:
    """Those for ONNX Runtime's CPU in fp32; what others run has operators that all of them know."""
    root = export_tiny(tmp_path / "b", recipe=recipe).root
    for name, wanted in (("model.onnx", False), ("model.cpu.onnx", fused), ("model.cpu.cls.onnx", fused)):
        graph = onnx.load(root / name, load_external_data=False).graph
        assert any(node.op_type == "MultiHeadAttention" for node in graph.node) == wanted, name
    assert open_bundle(root).choose().file == "model.cpu.onnx"


def test_a_convnext_in_fp32_has_one_graph(tmp_path: Path) -> None:
    bundle = export_passing(random_checkpoint(tiny_convnext()), tmp_path / "b")
    assert [path.name for path in sorted(bundle.root.glob("*.onnx"))] == ["model.onnx"]
