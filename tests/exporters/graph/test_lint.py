"""Every rule refuses what it is there for."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from dinodeploy.errors import LintError
from exporters.graph.lint import check_onnx, lint

FLOAT = TensorProto.FLOAT
FREE = ["batch", 3, "height", "width"]
Change = Callable[[onnx.GraphProto], None]


def model_with(change: Change | None = None) -> ir.Model:
    """A graph that passes, spoilt by `change`."""
    graph = helper.make_graph(
        [helper.make_node("Sin", ["pixels"], ["s"]), helper.make_node("Add", ["s", "w"], ["cls"])],
        "g",
        [helper.make_tensor_value_info("pixels", FLOAT, FREE)],
        [helper.make_tensor_value_info("cls", FLOAT, FREE)],
        [helper.make_tensor("w", FLOAT, [1], [1.0])],
    )
    if change is not None:
        change(graph)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))


def add_input(graph: onnx.GraphProto) -> None:
    graph.input.append(helper.make_tensor_value_info("masks", TensorProto.BOOL, ["batch", 4]))


def fix_height(graph: onnx.GraphProto) -> None:
    graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", FLOAT, ["batch", 3, 224, "width"]))


def add_tile(graph: onnx.GraphProto) -> None:
    graph.initializer.append(helper.make_tensor("r", TensorProto.INT64, [4], [1, 1, 1, 1]))
    graph.node[1].CopyFrom(helper.make_node("Tile", ["s", "r"], ["cls"]))


def add_custom(graph: onnx.GraphProto) -> None:
    graph.node[1].CopyFrom(helper.make_node("rope_attention", ["s"], ["cls"], domain="dinodeploy"))


def add_second_table(graph: onnx.GraphProto) -> None:
    graph.node[1].CopyFrom(helper.make_node("Sin", ["s"], ["cls"]))


def use_float64(graph: onnx.GraphProto) -> None:
    graph.initializer.append(helper.make_tensor("d", TensorProto.DOUBLE, [1], [1.0]))
    graph.node.append(helper.make_node("Cast", ["d"], ["e"], to=FLOAT))


def of_bytes(graph: onnx.GraphProto, height: int | str = "height") -> None:
    shape = ["batch", height, "width", 3]
    graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("cls", FLOAT, shape))
    graph.node[0].CopyFrom(helper.make_node("Cast", ["pixels"], ["s"], to=FLOAT))


def of_bytes_in_224_rows(graph: onnx.GraphProto) -> None:
    of_bytes(graph, 224)


def use_bytes_uncast(graph: onnx.GraphProto) -> None:
    of_bytes(graph)
    graph.node.append(helper.make_node("Transpose", ["pixels"], ["t"]))


def test_a_proper_graph_passes() -> None:
    for change in (None, of_bytes):
        lint(model_with(change))
        check_onnx(model_with(change))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (add_input, "inputs are"),
        (fix_height, "axes 0, 2 and 3 free"),
        (add_tile, "'Tile': 1"),
        (add_custom, "dinodeploy::rope_attention"),
        (add_second_table, "at most one Sin"),
        (use_float64, "DOUBLE"),
        (of_bytes_in_224_rows, "axes 0, 1 and 2 free"),
        (use_bytes_uncast, "types that some runtime cannot take: UINT8"),
    ],
)
def test_each_rule_refuses(change: Change, complaint: str) -> None:
    with pytest.raises(LintError, match=complaint):
        lint(model_with(change))


def test_an_output_named_like_a_weight_is_refused() -> None:
    """ir itself will not read such a file back, so the clash is made in memory."""
    model = model_with()
    weight = model.graph.initializers.pop("w")
    weight.name = "cls"
    model.graph.initializers.add(weight)
    with pytest.raises(LintError, match="names given twice: cls"):
        lint(model)


def test_all_complaints_come_at_once() -> None:
    def both(graph: onnx.GraphProto) -> None:
        add_tile(graph)
        add_input(graph)

    with pytest.raises(LintError, match="2 rule"):
        lint(model_with(both))


def test_the_checker_sees_types_and_shapes() -> None:
    def mismatch(graph: onnx.GraphProto) -> None:
        graph.output[0].CopyFrom(helper.make_tensor_value_info("cls", TensorProto.INT64, FREE))

    with pytest.raises(LintError, match="checker rejects"):
        check_onnx(model_with(mismatch))
