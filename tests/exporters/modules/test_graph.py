"""The graph of a whole model names its sizes, and its nodes by module."""

from __future__ import annotations

from exporters.dialects import DIALECTS
from exporters.graph.lint import Allowed, check_onnx, lint
from exporters.graph.summary import shape_of
from exporters.modules.graph import to_graph
from exporters.modules.trace import trace
from exporters.modules.whole import NamedOutputs, make_traced_copy
from exporters.precision.recipes import role_of
from tests.support.whole_models import TinySegmenter


def test_names_and_roles() -> None:
    model = TinySegmenter(depth=1).eval()
    copied = make_traced_copy(model)
    program = trace(NamedOutputs(copied.module, model.outputs), 3, 16)
    graph = to_graph(program, model.outputs, 3, copied.weights, DIALECTS["portable"])
    lint(graph, allowed=Allowed(whole=True))
    check_onnx(graph)
    assert shape_of(graph.graph.inputs[0]) == ["batch", 3, "height", "width"]
    assert shape_of(graph.graph.outputs[0]) == ["batch", 5, "height", "width"]
    nodes = {node.name: node for node in graph.graph}
    product = nodes["backbone.blocks.0.attn.q/MatMul"]
    assert role_of(product, ("encoder",)) is None
    assert role_of(product, ("backbone",)) == "qkv"
    assert "decoder.0/Conv" in nodes
