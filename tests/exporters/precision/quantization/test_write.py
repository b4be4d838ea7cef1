"""The int8 graph for CPUs with VNNI: static scales where outliers allow, else one per token; 255 levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from dinodeploy.backends import open_backend
from dinodeploy.bundle.manifest import CPU_FILE, MODEL_FILE, VNNI_FILE
from dinodeploy.hardware.instructions import VNNI, missing_instructions
from dinodeploy.parity.judge import measure
from dinov3_ref.checkpoints import build_model, planted_checkpoint
from tests.support.images.photographs import pixels
from tests.support.tiny_models import export_passing, tiny_config

needs_vnni = pytest.mark.skipif(bool(missing_instructions(VNNI)), reason="this CPU has no VNNI")


@pytest.fixture(scope="module")
def swiglu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Massive hidden channels in front of w3, which no scale for all tokens can carry."""
    checkpoint = planted_checkpoint(tiny_config("swiglu"))
    return export_passing(checkpoint, tmp_path_factory.mktemp("write") / "b", recipe="int8").root


def products(path: Path) -> dict[str, tuple[float, int, bool]]:
    """Layer -> the step of its input, the level of zero, and whether each token has a scale of its own."""
    found = {}
    for node in ir.load(path).graph:
        if node.op_type == "MatMulIntegerToFloat":
            step, middle = (node.inputs[i].const_value.numpy().item() for i in (2, 4))  # type: ignore[union-attr]
            (user, _), *_ = node.outputs[0].uses()
            per_token = user.op_type == "Mul" and str(user.name).endswith("/unscaled")
            found[str(node.name).partition("/")[0]] = (step, middle, per_token)
    return found


def test_static_scales_where_outliers_allow(swiglu: Path) -> None:
    layers = products(swiglu / VNNI_FILE)
    assert len(layers) == 3 * 7
    per_token = {name for name, (*_, per_token) in layers.items() if per_token}
    assert "blocks.2.mlp.w3" in per_token
    assert per_token <= {f"blocks.{index}.mlp.w3" for index in range(3)}
    assert {middle for _, middle, _ in layers.values()} == {128}
    assert {round(1 / layers[name][0]) for name in per_token} == {127}


def test_static_scales_are_those_of_the_graph_for_gpus(swiglu: Path) -> None:
    gpu = ir.load(swiglu / MODEL_FILE).graph.initializers
    layers = products(swiglu / VNNI_FILE)
    for name in ("blocks.0.attn.proj", "blocks.1.attn.proj"):
        assert layers[name][0] == gpu[f"{name}/int8.scale"].const_value.numpy()  # type: ignore[union-attr]


def test_the_graph_for_every_cpu_has_127_levels_per_token(swiglu: Path) -> None:
    layers = products(swiglu / CPU_FILE)
    assert {(round(1 / step), middle, per_token) for step, middle, per_token in layers.values()} == {
        (63, 64, True)
    }


@needs_vnni
def test_sums_do_not_saturate(swiglu: Path, tmp_path: Path) -> None:
    """Against integers in numpy: every level at its largest, which is past what 16 bits hold in pairs."""
    model = ir.load(swiglu / VNNI_FILE)
    node = next(node for node in model.graph if node.op_type == "MatMulIntegerToFloat")
    weight = np.full((64, 32), 127, np.int8)
    levels = np.full((3, 64), 255, np.uint8)
    names = ("levels", "weight", "step", "scale", "middle")
    values = (weight, np.float32(0.5), np.full(32, 0.25, np.float32), np.uint8(128))
    inputs = [ir.Value(name=name) for name in names]
    inputs[0].type, inputs[0].shape = ir.TensorType(ir.DataType.UINT8), ir.Shape((3, 64))
    for value, array in zip(inputs[1:], values, strict=True):
        value.const_value = ir.tensor(array, name=value.name)
    product = ir.Node(node.domain, node.op_type, inputs)
    product.outputs[0].name = "product"
    product.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        inputs[:1],
        product.outputs,
        nodes=[product],
        initializers=inputs[1:],
        opset_imports=model.opset_imports,
    )
    ir.save(ir.Model(graph, ir_version=9), tmp_path / "one.onnx")
    got = open_backend("onnxruntime", tmp_path / "one.onnx").run(levels)["product"]  # type: ignore[arg-type]
    np.testing.assert_array_equal(got, np.full((3, 32), 64 * 127 * 127 * 0.125, np.float32))


@needs_vnni
def test_an_embedding_does_not_depend_on_its_batch(swiglu: Path) -> None:
    x = pixels(["astronaut", "coffee", "china"], 96, 64).numpy()
    backend = open_backend("onnxruntime", swiglu / VNNI_FILE, threads=1)
    together = backend.run(x)
    for index in range(len(x)):
        for name, value in backend.run(x[index : index + 1]).items():
            assert np.abs(value[0] - together[name][index]).max() <= 2e-5, name


@needs_vnni
def test_planted_outliers_keep_their_direction(swiglu: Path) -> None:
    """Measured: 0.9997. NNCF's int8 of the same model has 0.959."""
    x = pixels(["astronaut", "coffee", "china", "flower"], 256, 384)
    with torch.no_grad():
        wanted = build_model(planted_checkpoint(tiny_config("swiglu")))(x, is_training=True)
    got = open_backend("onnxruntime", swiglu / VNNI_FILE, threads=1).run(x.numpy())["cls"]
    assert measure("cls", got, wanted["x_norm_clstoken"].numpy())["cosine"] >= 0.995
