"""Reading a graph without its weights: nothing but the weights is missing, and they are where it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dinodeploy.errors import BundleError
from exporters.graph.read import SMALL_BYTES, read_skeleton
from tests.support.tiny_models import export_tiny


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without initializers."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.initializer[:]
    return bare


def _same_weights(path: Path) -> None:
    whole = onnx.load(path)
    skeleton, blobs = read_skeleton(path)
    assert _bare(skeleton) == _bare(whole)
    assert [t.name for t in skeleton.graph.initializer] == [t.name for t in whole.graph.initializer]
    assert skeleton.ByteSize() < path.stat().st_size
    for left, full in zip(skeleton.graph.initializer, whole.graph.initializer, strict=True):
        if left.name in blobs:
            np.testing.assert_array_equal(blobs[left.name].read(), numpy_helper.to_array(full))
        else:
            assert left == full
            assert full.ByteSize() < 2 * SMALL_BYTES


def test_one_file_with_everything(tiny_bundle: Path) -> None:
    _same_weights(tiny_bundle / "model.onnx")


def test_external_weights_of_a_narrow_type(tmp_path: Path) -> None:
    bundle = export_tiny(tmp_path / "b", recipe="bf16")
    _same_weights(bundle.root / "model.onnx")
    _same_weights(bundle.choose().path)
    data = bundle.root / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:1000])
    _, blobs = read_skeleton(bundle.choose().path)
    last = max(blobs.values(), key=lambda blob: blob.offset)
    with pytest.raises(BundleError, match="ends inside a weight"):
        last.read()


def test_what_is_no_onnx_file(tiny_bundle: Path, tmp_path: Path) -> None:
    whole = (tiny_bundle / "model.onnx").read_bytes()
    for name, content in (
        ("text", b"hello, this is text"),
        ("truncated", whole[:-5000]),
        ("zeros", bytes(64)),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(BundleError, match="is no ONNX file"):
            read_skeleton(path)


@pytest.mark.parametrize("place", ["../outside.data", "/etc/passwd", "sub/model.data", ""])
def test_a_graph_cannot_name_weights_outside_of_its_folder(place: str, tmp_path: Path) -> None:
    weight = onnx.TensorProto(name="w", dims=[4], data_type=onnx.TensorProto.FLOAT)
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": place, "offset": "0", "length": "16"}.items():
        weight.external_data.add(key=key, value=value)
    model = onnx.ModelProto(graph=onnx.GraphProto(initializer=[weight]))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="wanted a file beside the graph"):
        read_skeleton(tmp_path / "model.onnx")
