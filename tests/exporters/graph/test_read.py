"""Reading a graph: weights stay on disk, and only files beside the graph are read."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from dinodeploy.errors import BundleError
from exporters.graph.read import read_onnx


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
