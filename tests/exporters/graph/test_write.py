"""Graphs on disk: weights in one external file, shared by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from exporters.graph.write import INLINE_BYTES, share_weights, weight_bytes, without_weights, write_onnx


def small_model() -> ir.Model:
    """y = x @ weight + bias, with a shape constant, weights large and small, and metadata."""
    generator = np.random.default_rng(0)
    x = ir.Value(name="x", shape=ir.Shape(["n", 40]), type=ir.TensorType(ir.DataType.FLOAT))
    arrays = {
        "weight": generator.normal(size=(40, 300)).astype(np.float32),
        "bias": generator.normal(size=(300,)).astype(np.float32),
        "half": generator.normal(size=(9, 40)).astype(np.float16),
        "shape": np.array([-1, 300], np.int64),
        "empty": np.empty((0, 3), np.float32),
    }
    values = {
        name: ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()
    }
    for name, array in arrays.items():
        values[name].shape = ir.Shape(array.shape)
        values[name].type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    product = ir.node("MatMul", [x, values["weight"]])
    total = ir.node("Add", [product.outputs[0], values["bias"]])
    shaped = ir.node("Reshape", [total.outputs[0], values["shape"]])
    shaped.outputs[0].name = "y"
    shaped.outputs[0].shape = ir.Shape(["n", 300])
    shaped.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [x],
        [shaped.outputs[0]],
        nodes=[product, total, shaped],
        initializers=list(values.values()),
        opset_imports={"": 18},
        name="g",
    )
    model = ir.Model(graph, ir_version=8)
    model.metadata_props["key"] = "value with ünïcode"
    return model


def same_weights(path: Path) -> None:
    loaded = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name, value in small_model().graph.initializers.items():
        assert value.const_value is not None
        np.testing.assert_array_equal(loaded[name], value.const_value.numpy())


def test_weights_go_beside_the_graph(tmp_path: Path) -> None:
    assert write_onnx(small_model(), tmp_path / "m.onnx") == (tmp_path / "m.onnx", tmp_path / "m.onnx.data")
    assert (tmp_path / "m.onnx").stat().st_size < 4000
    same_weights(tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)


def test_the_same_model_gives_the_same_bytes_and_stays_as_it_was(tmp_path: Path) -> None:
    model = small_model()
    before = list(model.graph.initializers)
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_onnx(model, folder / "m.onnx")
        assert list(model.graph.initializers) == before
    for name in ("m.onnx", "m.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_second_graph_reads_the_same_weights(tmp_path: Path) -> None:
    written = tmp_path / "m.onnx"
    write_onnx(small_model(), written)
    share_weights(small_model(), written, tmp_path / "second.onnx")
    assert (tmp_path / "second.onnx").stat().st_size < 4000
    for name, value in ir.load(tmp_path / "second.onnx").graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        assert isinstance(tensor, ir.ExternalTensor) is (tensor.nbytes > INLINE_BYTES), name
    same_weights(tmp_path / "second.onnx")


def test_another_weight_of_that_name_is_not_shared(tmp_path: Path) -> None:
    write_onnx(small_model(), tmp_path / "m.onnx")
    other = small_model()
    other.graph.initializers["weight"].const_value = ir.tensor(np.ones((40, 299), np.float32), name="weight")
    with pytest.raises(AssertionError, match="weight is another weight"):
        share_weights(other, tmp_path / "m.onnx", tmp_path / "second.onnx")


def test_without_weights_computes_none(tmp_path: Path) -> None:
    def never() -> ir.TensorProtocol:
        raise AssertionError("computed")

    model = small_model()
    lazy = ir.LazyTensor(never, dtype=ir.DataType.FLOAT, shape=ir.Shape((40, 300)), name="weight")
    model.graph.initializers["weight"].const_value = lazy
    assert {tensor.name for tensor in without_weights(model).graph.initializer} == {"shape", "empty"}
    assert "weight" in model.graph.initializers
    assert weight_bytes(model) == 4 * (40 * 300 + 300) + 2 * 9 * 40 + 2 * 8
