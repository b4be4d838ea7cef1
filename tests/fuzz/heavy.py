"""Parsers that need torch, onnx or ONNX Runtime: graphs, checkpoints, head files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save

from dinodeploy.backends import OpenOptions
from dinodeploy.backends.onnxruntime import open_cpu
from dinov3_ref.checkpoints.files import read_checkpoint
from dinov3_ref.heads.files import load_head, save_head
from dinov3_ref.heads.linear import LinearClassifier
from exporters.graph.files import read_onnx
from exporters.graph.summary import summarize_onnx
from tests.fuzz.attack import Attack, Violation
from tests.fuzz.mutations import mutate_bytes, mutate_zip

COLUMNS = 256


def small_graph() -> onnx.ModelProto:
    """pixels [B,3,H,W] -> cls [B,8]: a convolution, its mean, a product large enough to be left out."""
    kernel = numpy_helper.from_array(np.ones((8, 3, 4, 4), np.float32), "kernel")
    weight = numpy_helper.from_array(np.ones((8, COLUMNS), np.float32), "weight")
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["patches"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["patches"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["cls"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", 3, "H", "W"])],
        [helper.make_tensor_value_info("cls", TensorProto.FLOAT, ["B", COLUMNS])],
        [kernel, weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"dinodeploy.facts": "{}"})
    return model


def skeleton(folder: Path) -> Attack:
    """A graph as `inspect` reads it."""
    good = small_graph().SerializeToString()

    def attack(rng: Random) -> None:
        path = folder / "bad.onnx"
        path.write_bytes(mutate_bytes(good, rng))
        summarize_onnx(path)

    return attack


def external(folder: Path) -> Attack:
    """A graph whose weights are in another file, which it may name as it likes."""
    model = small_graph()
    (folder / "secret").mkdir()
    data = bytes(model.graph.initializer[1].raw_data)
    (folder / "model.onnx.data").write_bytes(data)
    onnx.external_data_helper.set_external_data(model.graph.initializer[1], "model.onnx.data", 0, len(data))
    model.graph.initializer[1].ClearField("raw_data")
    good = model.SerializeToString()

    def attack(rng: Random) -> None:
        path = folder / "bad.onnx"
        name = rng.choice((b"model.onnx.data", b"../../etc/passw", b"/etc/xxxxpasswd", b"secret/.xxxxxxx"))
        mutant = good.replace(b"model.onnx.data", name)
        path.write_bytes(mutate_bytes(mutant, rng) if rng.random() < 0.8 else mutant)
        for value in read_onnx(path).graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and Path(tensor.path).parent != folder:
                raise Violation(f"a graph made us read {tensor.path}")

    return attack


def onnxruntime(folder: Path) -> Attack:
    """A graph as ONNX Runtime opens it."""
    good = small_graph().SerializeToString()

    def attack(rng: Random) -> None:
        (folder / "bad.onnx").write_bytes(mutate_bytes(good, rng))
        open_cpu(folder / "bad.onnx", OpenOptions(threads=1)).close()

    return attack


def checkpoint(folder: Path) -> Attack:
    """safetensors, torch's zip and torch's older pickle."""
    state = {"cls_token": torch.ones(1, 1, 8), "blocks.0.ls1.gamma": torch.ones(8, dtype=torch.bfloat16)}
    good = [save(state)]
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
        good.append(buffer.getvalue())

    def attack(rng: Random) -> None:
        data = rng.choice(good)
        damage = mutate_zip if data.startswith(b"PK") and rng.random() < 0.5 else mutate_bytes
        (folder / "bad").write_bytes(damage(data, rng))
        read_checkpoint(folder / "bad")

    return attack


def head(folder: Path) -> Attack:
    """A head file."""
    save_head(LinearClassifier(8, 3, classes=("a", "b", "c")), folder / "good.safetensors")
    good = (folder / "good.safetensors").read_bytes()

    def attack(rng: Random) -> None:
        (folder / "bad.safetensors").write_bytes(mutate_bytes(good, rng))
        load_head(folder / "bad.safetensors")

    return attack


# name -> (target, mutants)
TARGETS: dict[str, tuple[Callable[[Path], Attack], int]] = {
    "skeleton": (skeleton, 800),
    "external": (external, 300),
    "onnxruntime": (onnxruntime, 300),
    "checkpoint": (checkpoint, 500),
    "head": (head, 300),
}
