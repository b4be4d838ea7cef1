"""The graph: one for every batch and size, deterministic, readable, and nothing of the builder in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.models import DinoVisionTransformer
from exporters.dialects import DIALECTS
from exporters.graph.files import write_onnx
from exporters.graph.graph import to_graph
from exporters.trace.fold import make_meta_copy
from exporters.trace.trace import TokenOutputs, trace
from tests.support.graphs import graph_of
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_config

# Relative Frobenius of ONNX Runtime against torch, fp32. The issue asks for 1e-5; measured worst 1.1e-6.
LIMIT = 5e-6
PHOTOS = ["astronaut", "chelsea", "coffee", "rocket", "china", "flower", "retina", "motorcycle_left"]
SIZES = [
    (1, 64, 64),
    (3, 64, 64),
    (8, 64, 96),
    (1, 224, 224),
    (3, 256, 384),
    (1, 512, 320),
    (1, 768, 512),
    (1, 16, 16),
    (2, 16, 48),
    (1, 208, 16),
]


def assert_same_outputs(
    session: onnxruntime.InferenceSession, reference: TokenOutputs, x: torch.Tensor
) -> None:
    with torch.no_grad():
        wanted = reference(x)
    got = session.run(None, {"pixels": x.numpy()})
    assert [output.name for output in session.get_outputs()] == list(reference.output_names)
    for name, one, other in zip(reference.output_names, got, wanted, strict=True):
        assert one.shape == tuple(other.shape), name
        error = np.linalg.norm(one - other.numpy()) / np.linalg.norm(other.numpy())
        assert error <= LIMIT, f"{name} at {tuple(x.shape)}: {error:.1e}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "swiglu", "7b"])
def test_one_graph_serves_every_batch_and_size(kind: str, tmp_path: Path) -> None:
    model = build_model(random_checkpoint(tiny_config(kind)))
    layers = (0, 2)  # the last block's map is the same thing as `patch`
    write_onnx(graph_of(model, layers=layers), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for batch, height, width in SIZES:
        x = pixels(PHOTOS[:batch], height, width)
        assert_same_outputs(session, TokenOutputs(model, layers), x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"n_storage_tokens": 0},
        {"pos_embed_rope_normalize_coords": "max"},
        {"pos_embed_rope_normalize_coords": "min"},
        {"untie_cls_and_patch_norms": True},
        {"norm_layer": "rmsnorm"},
        {"layerscale_init": None},
        {"mask_k_bias": False},
        {"patch_size": 8},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_variants_of_the_architecture(changes: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DinoVisionTransformer(**tiny_config(**changes, depth=2).kwargs()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    write_onnx(graph_of(model), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for height, width in ((64, 64), (48, 112)):
        assert_same_outputs(session, TokenOutputs(model), pixels(["china", "coffee"], height, width))


def test_the_graph_is_plain(tiny_bundle: Path) -> None:
    graph = onnx.load(tiny_bundle / "model.onnx").graph
    operators = Counter(node.op_type for node in graph.node)
    assert not operators.keys() & {"If", "Loop", "Tile", "NonZero", "Scan", "Identity", "Constant"}
    assert [value.name for value in graph.input] == ["pixels"]
    assert (operators["Sin"], operators["Cos"]) == (1, 1), "RoPE's table is made once"
    assert operators["MatMul"] == 3 * 6, "qkv, scores, values, out, fc1, fc2 in each block and no more"
    assert operators["Softmax"] == 3
    weights = {weight.name for weight in graph.initializer}
    assert not [node.name for node in graph.node if node.op_type == "Transpose" and set(node.input) & weights]


def test_names_say_where_a_node_comes_from(tiny_bundle: Path) -> None:
    graph = onnx.load(tiny_bundle / "model.onnx").graph
    names = {node.name for node in graph.node}
    assert {"blocks.0.attn.qkv/MatMul", "blocks.2.mlp.fc2/MatMul", "norm/LayerNormalization"} <= names
    assert len(names) == len(graph.node)
    assert "blocks.0.attn.q.weight.T" in {weight.name for weight in graph.initializer}
    dims = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]


def test_nothing_of_the_builder_is_left(tiny_bundle: Path) -> None:
    """Stack traces would carry paths of the machine that exported."""
    content = (tiny_bundle / "model.onnx").read_bytes()
    for word in (b"stack_trace", b"site-packages", b"pkg.torch", b".py"):
        assert word not in content


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = build_model(random_checkpoint(tiny_config(depth=2)))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_onnx(graph_of(model), tmp_path / name / "m.onnx")
    for file in ("m.onnx", "m.onnx.data"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_weights_are_not_made_before_they_are_written() -> None:
    """Or a 7B model would be in memory twice: only small tensors may be looked at before."""
    model = build_model(random_checkpoint(tiny_config(depth=2)))
    twin, weights = make_meta_copy(model)
    made: Counter[str] = Counter()

    def counted(name: str, make: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        def wrapped() -> torch.Tensor:
            made[name] += 1
            return make()

        return wrapped

    module = TokenOutputs(twin)
    graph = to_graph(
        trace(module),
        module,
        {name: counted(name, make) for name, make in weights.items()},
        DIALECTS["portable"],
    )
    large = {name for name in made if name.endswith("weight") and "norm" not in name}
    assert not large
    assert len(graph.graph.initializers) > 20
