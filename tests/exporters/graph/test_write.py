"""The streaming writer against the libraries that write and read ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from exporters.graph import write as writer
from exporters.graph.write import share_weights, write_onnx


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


def test_a_single_file_reads_as_the_librarys_own(tmp_path: Path) -> None:
    ir.save(small_model(), tmp_path / "theirs.onnx")
    files = write_onnx(small_model(), tmp_path / "ours.onnx")
    assert files == [tmp_path / "ours.onnx"]
    theirs, ours = onnx.load(tmp_path / "theirs.onnx"), onnx.load(tmp_path / "ours.onnx")
    for model in (theirs, ours):
        model.graph.initializer.sort(key=lambda tensor: tensor.name)
        del model.graph.value_info[:]  # theirs says a weight's type a second time
    assert ours == theirs
    onnx.checker.check_model(str(tmp_path / "ours.onnx"), full_check=True)


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = small_model()
    before = list(model.graph.initializers)
    write_onnx(model, tmp_path / "a.onnx")
    assert list(model.graph.initializers) == before
    write_onnx(model, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("forced", [True, False], ids=["asked for", "past the limit"])
def test_weights_go_beside_the_graph(forced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not forced:
        monkeypatch.setattr(writer, "SINGLE_FILE_LIMIT", 1000)
    files = write_onnx(small_model(), tmp_path / "m.onnx", external_data=forced)
    assert [file.name for file in files] == ["m.onnx", "m.onnx.data"]
    assert files[0].stat().st_size < 4000
    loaded = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    for name, value in small_model().graph.initializers.items():
        assert value.const_value is not None
        np.testing.assert_array_equal(loaded[name], value.const_value.numpy())


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (2**31, b"\x80\x80\x80\x80\x08"),
    ],
)
def test_varint(number: int, wanted: bytes) -> None:
    """Values of the protobuf encoding guide."""
    assert writer._varint(number) == wanted


def test_a_graph_beside_it_reads_its_weights(tmp_path: Path) -> None:
    written = tmp_path / "m.onnx"
    write_onnx(small_model(), written)
    share_weights(small_model(), written, tmp_path / "twin.onnx")
    assert (tmp_path / "twin.onnx").stat().st_size < 4000
    stored = ir.load(tmp_path / "twin.onnx").graph.initializers
    for name, value in small_model().graph.initializers.items():
        tensor = stored[name].const_value
        assert tensor is not None
        assert value.const_value is not None
        assert isinstance(tensor, ir.ExternalTensor) is (value.const_value.size > writer.INLINE_ELEMENTS)
        np.testing.assert_array_equal(tensor.numpy(), value.const_value.numpy())


def test_another_weight_of_that_name_is_not_shared(tmp_path: Path) -> None:
    write_onnx(small_model(), tmp_path / "m.onnx")
    other = small_model()
    other.graph.initializers["weight"].const_value = ir.tensor(np.ones((40, 299), np.float32), name="weight")
    with pytest.raises(AssertionError, match="weight is another weight"):
        share_weights(other, tmp_path / "m.onnx", tmp_path / "twin.onnx")
