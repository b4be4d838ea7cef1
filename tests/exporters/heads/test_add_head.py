"""A bundle with a head: one graph that agrees with the reference at every size and recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from dinodeploy import Embedder
from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.errors import ExportError, MisuseError, OutputExistsError
from dinodeploy.parity.check import check_bundle
from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.heads import (
    DPTDepth,
    FeaturePyramid,
    Head,
    HeadedBackbone,
    LinearClassifier,
    LinearDepth,
    LinearSegmenter,
    LoadedHead,
)
from dinov3_ref.models import DinoVisionTransformer
from exporters.heads import add_head
from exporters.heads.add_head import find_head, four_even
from tests.support.images.photographs import pixels
from tests.support.tiny_models import export_tiny, tiny_config

D = 128
SIZES = ((112, 192), (256, 144), (64, 64), (80, 48))
TOLERANCE = 1e-5  # measured: at most 1.1e-6

HEADS: dict[str, Head] = {
    "cls_mean": LinearClassifier(D, 3, classes=("cat", "cup", "rocket")),
    "pixel": LinearSegmenter(D, 5),
    "patch": LinearSegmenter(D, 5, "patch", (1, 3), batchnorm=True),
    "linear_depth": LinearDepth(D, 64),
    "dpt": DPTDepth(D, (0, 1, 2, 3), 32, (16, 16, 32, 32), 32),
    "pyramid": FeaturePyramid(D, (0, 1, 2, 3)),
}


@pytest.fixture(scope="module")
def model() -> DinoVisionTransformer:
    return build_model(random_checkpoint(tiny_config(depth=4), 0)).eval()


@pytest.fixture(scope="module", autouse=True)
def lively() -> None:
    torch.manual_seed(0)
    for head in HEADS.values():
        for name, tensor in head.state_dict().items():
            if "running" in name:
                tensor.uniform_(0.5, 2.0)
            elif name.endswith("bias"):
                tensor.normal_(std=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_one_graph_agrees_with_the_reference(
    name: str, four_maps_bundle: Path, model: DinoVisionTransformer, tmp_path: Path
) -> None:
    head = HEADS[name]
    bundle, _ = add_head(four_maps_bundle, head, tmp_path / name)
    assert bundle.receipt is not None
    assert bundle.receipt.passed
    facts = bundle.manifest.head
    assert facts is not None
    assert (facts.task, facts.classes, facts.outputs) == (head.task, head.classes, tuple(head.outputs))
    reference = HeadedBackbone(model, head.eval())
    with Embedder.open(bundle.root) as embedder:
        for height, width in SIZES:
            x = pixels(["coffee", "chelsea"], height, width)
            got, wanted = embedder.run(x.numpy()), reference(x)
            for output, value in wanted.items():
                value = value.detach().numpy()
                assert got[output].shape == value.shape
                error = np.linalg.norm(got[output] - value) / np.linalg.norm(value)
                assert error <= TOLERANCE, (output, height, width, error)


def test_sizes_of_the_graph_are_dynamic_and_named(four_maps_bundle: Path, tmp_path: Path) -> None:
    add_head(four_maps_bundle, HEADS["pyramid"], tmp_path / "b")
    graph = onnx.load(tmp_path / "b" / "model.onnx").graph
    shapes = {
        output.name: [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]
        for output in graph.output
    }
    assert shapes["level_4"] == ["batch", D, "rows_4", "columns_4"]
    assert shapes["patch"] == ["batch", "rows", "columns", D]
    assert not {"If", "Loop", "Tile"} & {node.op_type for node in graph.node}
    ours = [node.name for node in graph.node if node.name.startswith("task_head")]
    assert "task_head/AveragePool" in ours


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8"])
def test_a_head_stays_fp32_under_a_recipe(recipe: str, tmp_path: Path) -> None:
    """In both graphs, over one file of weights."""
    root = export_tiny(tmp_path / "base", recipe=recipe, imgsz=(64, 64)).root
    bundle, _ = add_head(root, HEADS["cls_mean"], tmp_path / "b")
    assert bundle.receipt is not None
    assert bundle.receipt.passed
    for name in ("model.onnx", "model.cpu.onnx"):
        graph = onnx.load(bundle.root / name, load_external_data=False).graph
        head = [node for node in graph.node if node.name.startswith("task_head")]
        assert {node.op_type for node in head} >= {"ReduceMean", "Concat", "Gemm"}
        weight = next(tensor for tensor in graph.initializer if tensor.name == "task_head.linear.weight")
        assert weight.data_type == onnx.TensorProto.FLOAT
    sizes = [open_bundle(path).manifest.files["model.onnx.data"].bytes for path in (root, bundle.root)]
    assert 0 < sizes[1] - sizes[0] < 20_000, "the head's weights are stored once"


# ---- the judge ---------------------------------------------------------------------------------


def swap_classes(path: Path) -> None:
    """Another order of the classes: what a head of another label map would do."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("task_head.linear"):
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array[::-1].copy(), tensor.name))
    onnx.save(model, path)


def double_depth(path: Path) -> None:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("task_head") and list(tensor.dims) == [64, 1, 1]:  # the bins
            array = 2 * onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), [("cls_mean", swap_classes), ("linear_depth", double_depth)])
def test_a_fault_in_the_head_is_rejected(name: str, fault, four_maps_bundle: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from dinodeploy.bundle.bundle import file_facts
    from dinodeploy.bundle.manifest import write_manifest

    bundle, _ = add_head(four_maps_bundle, HEADS[name], tmp_path / "b")
    engine = bundle.choose().path
    fault(engine)
    files = bundle.manifest.files | {engine.name: file_facts(engine)}
    write_manifest(replace(bundle.manifest, files=files, digest=""), bundle.root)
    _, _, verdict = check_bundle(bundle.root)
    assert {m.output for m in verdict.failures} == set(HEADS[name].outputs)


# ---- what does not fit -------------------------------------------------------------------------


class OwnHead(Head):
    """A custom head whose declared outputs are a parameter."""

    inputs = ("patch",)

    def __init__(self, columns: int | str = 2, scale: float = 1.0) -> None:
        super().__init__()
        self.outputs = {"corners": ("batch", columns)}
        self.scale = scale
        self.linear = torch.nn.Linear(D, 2)

    def forward(self, patch: Tensor) -> tuple[Tensor]:
        return (self.linear(patch).amax((1, 2)) * self.scale,)


def test_a_custom_head(four_maps_bundle: Path, tmp_path: Path) -> None:
    bundle, _ = add_head(four_maps_bundle, OwnHead(), tmp_path / "b")
    assert bundle.receipt is not None
    assert bundle.receipt.passed
    assert bundle.manifest.head is not None
    assert (bundle.manifest.head.task, bundle.manifest.head.kind) == ("custom", "OwnHead")
    assert len(bundle.manifest.head.sha256) == 64


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (
            OwnHead(columns=3),
            MisuseError,
            r"head output 'corners' is torch.float32 \[2, 2\] where the head declares",
        ),
        (OwnHead(scale=float("nan")), ExportError, "NaN or infinite corners on photographs"),
        (LinearClassifier(64, 3), MisuseError, "reads features of 64 channels, custom has 128"),
        (LinearSegmenter(D, 3, layers=(4,)), MisuseError, "reads block 4; custom has blocks 0..3"),
        (
            LoadedHead(LinearClassifier(D, 3), "linear_classifier", "h", backbone_sha256="a" * 64),
            MisuseError,
            "was trained on the weights aaaaaaaaaaaa",
        ),
    ],
)
def test_a_head_that_does_not_fit_writes_nothing(
    head, error, message: str, four_maps_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        add_head(four_maps_bundle, head, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_map_that_is_not_an_output_of_the_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(
        MisuseError, match="reads layer_2, which is not an output of this bundle; export it with"
    ):
        add_head(tiny_bundle, LinearSegmenter(D, 3, layers=(2,)), tmp_path / "b")


def test_a_second_head_and_a_foreign_folder_are_refused(four_maps_bundle: Path, tmp_path: Path) -> None:
    add_head(four_maps_bundle, HEADS["cls_mean"], tmp_path / "b")
    with pytest.raises(MisuseError, match="already has a head"):
        add_head(tmp_path / "b", HEADS["cls_mean"], tmp_path / "c")
    with pytest.raises(OutputExistsError, match="holds a bundle already"):
        add_head(four_maps_bundle, HEADS["cls_mean"], tmp_path / "b")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(OutputExistsError, match="is not a bundle"):
        add_head(four_maps_bundle, HEADS["cls_mean"], tmp_path / "mine", overwrite=True)
    add_head(four_maps_bundle, LinearClassifier(D, 2, "cls", ("a", "b")), tmp_path / "b", overwrite=True)
    assert open_bundle(tmp_path / "b").manifest.head.classes == ("a", "b")  # type: ignore[union-attr]


def test_a_bundle_without_a_head_reads_as_before(tiny_bundle: Path, tmp_path: Path) -> None:
    """Older versions wrote no `head`, or null: the digest of such a manifest is the same."""
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    data = json.loads((root / "manifest.json").read_text())
    assert "head" not in data
    data["head"] = None
    (root / "manifest.json").write_text(json.dumps(data))
    assert open_bundle(root).manifest.head is None


def test_a_pyramid_is_found_by_name(tmp_path: Path) -> None:
    assert find_head("pyramid:3,5,7,11", 64, 12, 16).head.inputs == (
        "layer_3",
        "layer_5",
        "layer_7",
        "layer_11",
    )
    assert find_head("pyramid", 64, 12, 16).head.inputs == ("layer_2", "layer_5", "layer_8", "layer_11")
    assert four_even(24) == (4, 11, 17, 23)
    assert four_even(40) == (9, 19, 29, 39)
    for text, message in (
        ("pyramid:1,2", "wanted four different blocks"),
        ("pyramid:a,b,c,d", "wanted four block numbers"),
    ):
        with pytest.raises(MisuseError, match=message):
            find_head(text, 64, 12, 16)
    with pytest.raises(MisuseError, match="takes four blocks, this model has 3"):
        find_head("pyramid", 64, 3, 16)
