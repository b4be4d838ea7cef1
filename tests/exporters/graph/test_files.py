"""Graphs on disk: weights in one external file, shared by name; only files beside the graph are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from dinodeploy.errors import BundleError
from exporters.graph.files import (
    INLINE_BYTES,
    read_onnx,
    share_weights,
    weight_bytes,
    without_weights,
    write_onnx,
)


def test_large_weights_stay_on_disk(tiny_bundle: Path) -> None:
    for name in ("model.onnx", "model.cpu.onnx", "model.cls.onnx"):
        graph = read_onnx(tiny_bundle / name).graph
        external = [v for v in graph.initializers.values() if isinstance(v.const_value, ir.ExternalTensor)]
        assert len(external) > 30
        assert {str(v.const_value.location) for v in external} == {"model.onnx.data"}


def test_a_file_that_is_not_onnx(tiny_bundle: Path, tmp_path: Path) -> None:
    whole = (tiny_bundle / "model.onnx").read_bytes()
    unknown_type = onnx.TensorProto(name="w", dims=[4], data_type=99, raw_data=bytes(16))
    damaged = onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g", initializer=[unknown_type]))
    contents = {
        "damaged": damaged.SerializeToString(),
        "text": b"hello, this is text",
        "truncated": whole[:-5000],
        "zeros": bytes(64),
        "empty": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BundleError, match="is not an ONNX file"):
            read_onnx(tmp_path / name)


@pytest.mark.parametrize("place", ["../outside.data", "/etc/passwd", "sub/model.data", ""])
def test_a_graph_cannot_name_weights_outside_its_folder(place: str, tmp_path: Path) -> None:
    weight = onnx.TensorProto(name="w", dims=[4], data_type=onnx.TensorProto.FLOAT)
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": place, "offset": "0", "length": "16"}.items():
        weight.external_data.add(key=key, value=value)
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    graph = onnx.GraphProto(name="g", node=[node], initializer=[weight])
    (tmp_path / "model.onnx").write_bytes(onnx.ModelProto(ir_version=8, graph=graph).SerializeToString())
    with pytest.raises(BundleError, match="wanted a file beside the graph"):
        read_onnx(tmp_path / "model.onnx")


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
