"""The folder for transformers.js: its graphs against transformers' own models, its files in their loaders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import dinodeploy
from dinodeploy.arrays import FloatArray
from dinodeploy.errors import JudgementError, MisuseError, OutputExistsError
from dinodeploy.parity.thresholds import THRESHOLDS
from dinov3_ref.checkpoints import Checkpoint, random_checkpoint, save_checkpoint
from dinov3_ref.checkpoints.layouts.official import PERIODS, rope_periods
from dinov3_ref.torchvision_shim import import_torchvision
from exporters.layouts import transformers as layout
from exporters.layouts.tokens import rename_outputs
from tests.support.images.photographs import photograph, pixels
from tests.support.tiny_models import tiny_config, tiny_convnext

DIM = 64
BATCHES = (pixels(("chelsea", "coffee"), 64, 96), pixels(("rocket",), 112, 48))


def exact_vit() -> Checkpoint:
    """A small ViT with the periods that transformers computes."""
    config = tiny_config(embed_dim=DIM, num_heads=1, depth=2)
    checkpoint = random_checkpoint(config, 3)
    return replace(checkpoint, state={**checkpoint.state, PERIODS: rope_periods(config, "fp32")})


def export_folder(checkpoint: Checkpoint, place: Path, *precisions: str, **options: Any) -> Any:
    save_checkpoint(checkpoint, "official", place / "weights.safetensors", overwrite=True)
    return dinodeploy.export_transformers(
        place / "weights.safetensors", place / "folder", precision=precisions, rope_periods="fp32", **options
    )


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Any]:
    checkpoint = exact_vit()
    return checkpoint, export_folder(checkpoint, tmp_path_factory.mktemp("vit"), "fp32", imgsz=(48, 64))


def in_transformers(checkpoint: Checkpoint, folder: Path, place: Path) -> Any:
    """The model that transformers builds from the folder's config.json, with the checkpoint's weights."""
    import_torchvision()
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModel

    save_checkpoint(checkpoint, "hf", place / "hf")
    config = AutoConfig.from_pretrained(folder)
    model = AutoModel.from_config(config, attn_implementation="eager")
    state = {
        key.removeprefix("model."): value for key, value in load_file(place / "hf/model.safetensors").items()
    }
    own = {key.removeprefix("model."): key for key in model.state_dict()}
    model.load_state_dict({own[key]: value for key, value in state.items()}, strict=True)
    return model.eval()


def relative_errors(
    folder: Path, file: str, model: Any, batches: Sequence[torch.Tensor] = BATCHES
) -> dict[str, float]:
    """The largest relative error of each output over the batches."""
    session = onnxruntime.InferenceSession(folder / file)
    assert [value.name for value in session.get_inputs()] == ["pixel_values"]
    worst = {"last_hidden_state": 0.0, "pooler_output": 0.0}
    for batch in batches:
        with torch.no_grad():
            wanted = model(pixel_values=batch)
        got = session.run(list(worst), {"pixel_values": batch.numpy()})
        for name, value in zip(worst, got, strict=True):
            reference: FloatArray = wanted[name].numpy()
            assert value.shape == reference.shape
            error = float(np.linalg.norm(value - reference) / np.linalg.norm(reference))
            worst[name] = max(worst[name], error)
    return worst


def limit(precision: str) -> float:
    return next(row.limit for row in THRESHOLDS[precision] if row.metric == "relative_frobenius")


def test_the_graph_is_transformers_model(vit: tuple[Checkpoint, Any], tmp_path: Path) -> None:
    checkpoint, folder = vit
    model = in_transformers(checkpoint, folder.root, tmp_path)
    assert type(model).__name__ == "DINOv3ViTModel"
    assert max(relative_errors(folder.root, "onnx/model.onnx", model).values()) < limit("fp32")
    graph = onnx.load(folder.root / "onnx/model.onnx", load_external_data=False)
    assert {node.domain for node in graph.graph.node} == {""}  # no operator of one runtime alone
    assert {tensor.external_data[0].value for tensor in graph.graph.initializer if tensor.external_data} == {
        "model.onnx_data"
    }
    assert [prop.key for prop in graph.metadata_props] == ["licence"]


def test_files_that_libraries_look_for(vit: tuple[Checkpoint, Any]) -> None:
    _, folder = vit
    names = {str(path.relative_to(folder.root)) for path in folder.root.rglob("*") if path.is_file()}
    assert names == {
        *("config.json", "preprocessor_config.json", "README.md", "LICENSE.txt"),
        *("onnx/model.onnx", "onnx/model.onnx_data"),
    }
    config = json.loads((folder.root / "config.json").read_text())
    assert config["image_size"] == [48, 64]
    assert config["transformers.js_config"] == {"dtype": "fp32", "use_external_data_format": True}
    assert "random" not in (folder.root / "README.md").read_text()  # these come from a file
    assert [graph.precision for graph in folder.graphs] == ["fp32"]


def test_the_image_processor_loads(vit: tuple[Checkpoint, Any]) -> None:
    import_torchvision()
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(vit[1].root)
    found = processor(images=photograph("chelsea"), return_tensors="np")["pixel_values"]
    assert found.shape == (1, 3, 48, 64)


@pytest.mark.slow
def test_every_precision(tmp_path: Path) -> None:
    checkpoint = exact_vit()
    folder = export_folder(checkpoint, tmp_path, "fp32", "fp16", "int8", imgsz=64)
    model = in_transformers(checkpoint, folder.root, tmp_path)
    config = json.loads((folder.root / "config.json").read_text())
    assert config["transformers.js_config"]["device_config"] == {"wasm": {"dtype": "q8"}}
    for precision, (name, _, _) in layout.NAMES.items():
        errors = relative_errors(folder.root, f"onnx/{name}", model)
        assert max(errors.values()) < limit(precision), (precision, errors)
    sizes = {graph.precision: graph.bytes for graph in folder.graphs}
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"]
    with pytest.raises(OutputExistsError, match="holds a model already"):
        export_folder(checkpoint, tmp_path, "fp32")
    assert not any("--device auto" in note for note in folder.notes)


@pytest.mark.slow
def test_convnext(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_convnext(), 5)
    folder = export_folder(checkpoint, tmp_path, "fp32", imgsz=64)
    model = in_transformers(checkpoint, folder.root, tmp_path)
    assert type(model).__name__ == "DINOv3ConvNextModel"
    errors = relative_errors(folder.root, "onnx/model.onnx", model, BATCHES[:1])  # multiples of 32 pixels
    assert max(errors.values()) < limit("fp32")


def test_what_cannot_be_expressed_is_refused(tmp_path: Path) -> None:
    def refused(words: str, *precisions: str, **options: Any) -> None:
        with pytest.raises(MisuseError, match=words):
            dinodeploy.export_transformers(
                "random", tmp_path / "out", arch="vit_small", precision=precisions or "fp32", **options
            )

    refused("no browser runs 'bf16'", "fp32", "bf16")
    refused("at most once", "fp16", "fp16")
    refused("head does not fit", head="linear.pth")
    refused("layers does not fit", layers=(3,))
    refused("no such image processor", preprocess="keep-aspect")
    refused("for a square only", preprocess="timm", imgsz=(224, 320))
    assert not (tmp_path / "out").exists()


def test_a_model_that_transformers_does_not_have_is_refused(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_config(embed_dim=DIM, num_heads=1, depth=2, n_storage_tokens=0))
    with pytest.raises(MisuseError, match="it needs storage tokens"):
        export_folder(checkpoint, tmp_path, "fp32")


def test_other_things_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("…")
    with pytest.raises(OutputExistsError, match="no transformers folder"):
        export_folder(exact_vit(), tmp_path, "fp32", overwrite=True)


def test_a_wrong_graph_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers behind the patches: right shapes, wrong order."""

    def shuffled(model: Any) -> None:
        rename_outputs(model)
        concat = model.graph[-1]
        first, registers, patches = concat.inputs
        for index, value in enumerate((first, patches, registers)):
            concat.replace_input_with(index, value)

    monkeypatch.setattr(layout, "rename_outputs", shuffled)
    with pytest.raises(JudgementError, match=r"model\.onnx is not the model: patch"):
        export_folder(exact_vit(), tmp_path, "fp32", imgsz=64)
    assert not (tmp_path / "folder").exists()
