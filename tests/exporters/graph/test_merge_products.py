"""One product for q, k and v, and one for w1 and w2, for GPUs: same numbers, same file of weights."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import pytest

from dinodeploy.backends import open_backend
from exporters.graph.merge_products import merge_products
from exporters.precision import apply_recipe
from tests.support.tiny_models import export_tiny

DEPTH = 3


class Exports(NamedTuple):
    merged: Path
    apart: Path


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    folder = tmp_path_factory.mktemp("merged")
    merged = export_tiny(folder / "merged", "swiglu").root
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply_recipe, "merge_products", lambda graph: 0)
        apart = export_tiny(folder / "apart", "swiglu").root
    return Exports(merged, apart)


def products(path: Path) -> list[str]:
    """Names of the linear layers of a graph that read a normalised input."""
    names = [str(node.name) for node in ir.load(path).graph if node.op_type == "MatMul"]
    return [name for name in names if ".attn." in name or ".mlp.w" in name]


def test_one_product_on_gpus_and_three_on_cpus(exports: Exports) -> None:
    found = products(exports.merged / "model.onnx")
    for block in range(DEPTH):
        assert [name for name in found if name.startswith(f"blocks.{block}.")] == [
            f"blocks.{block}.{layer}/MatMul" for layer in ("attn.qkv", "attn.proj", "mlp.w12", "mlp.w3")
        ]
    assert len(products(exports.merged / "model.cpu.onnx")) == 7 * DEPTH


def test_the_cls_only_graph_merges_what_reads_the_same(exports: Exports) -> None:
    """In its last block q reads one row, k and v read all."""
    last = [name for name in products(exports.merged / "model.cls.onnx") if name.startswith("blocks.2.attn")]
    assert sorted(last) == [f"blocks.2.attn.{layer}/MatMul" for layer in ("kv", "proj", "q")]


def test_the_same_numbers_bit_by_bit(exports: Exports) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 48, 80), dtype=np.float32)
    for name in ("model.onnx", "model.cls.onnx"):
        outputs = []
        for root in exports:
            backend = open_backend("onnxruntime", root / name, threads=1)
            outputs.append(backend.run(x))
            backend.close()
        for output, values in outputs[0].items():
            np.testing.assert_array_equal(values, outputs[1][output])


def test_the_weights_are_stored_once_and_graphs_for_cpus_do_not_change(exports: Exports) -> None:
    merged, apart = (root / "model.onnx.data" for root in exports)
    assert merged.read_bytes() == apart.read_bytes()
    for name in ("model.cpu.onnx", "model.cpu.cls.onnx"):
        assert (exports.merged / name).read_bytes() == (exports.apart / name).read_bytes()
    assert (exports.merged / "model.onnx").stat().st_size < 1 << 17, "no weight is inside the graph"


def weight(name: str, columns: int, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    array = np.random.default_rng(columns).normal(size=(4, columns)).astype(dtype.numpy())
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=ir.Shape((4, columns)), type=ir.TensorType(dtype), const_value=tensor)


def graph_of(parts: dict[str, tuple[str, ir.Value]]) -> ir.Graph:
    """Products by part, each of one of the inputs x and y."""
    inputs = {name: ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT)) for name in ("x", "y")}
    nodes = [
        ir.node("MatMul", [inputs[source], value], name=f"net.blocks.0.attn.{part}/MatMul")
        for part, (source, value) in parts.items()
    ]
    return ir.Graph(
        list(inputs.values()),
        [node.outputs[0] for node in nodes],
        nodes=nodes,
        initializers=[value for _, value in parts.values()],
        opset_imports={"": 18},
    )


@pytest.mark.parametrize(
    ("parts", "left"),
    [
        ({"q": ("x", weight("q", 4)), "k": ("x", weight("k", 4)), "v": ("x", weight("v", 2))}, ["qkv"]),
        ({"q": ("y", weight("q", 4)), "k": ("x", weight("k", 4)), "v": ("x", weight("v", 4))}, ["q", "kv"]),
        ({"q": ("x", weight("q", 4)), "k": ("x", weight("k", 4, ir.DataType.FLOAT16))}, ["q", "k"]),
    ],
    ids=["a whole model's", "another input", "another type"],
)
def test_what_is_merged(parts: dict[str, tuple[str, ir.Value]], left: list[str]) -> None:
    graph = graph_of(parts)
    for value in graph.outputs:
        assert value.producer() is not None
    graph.outputs.clear()
    assert merge_products(graph) == sum(len(name) > 1 for name in left)
    names = [str(node.name) for node in graph if node.op_type == "MatMul"]
    assert names == [f"net.blocks.0.attn.{part}/MatMul" for part in left]
