"""Fine-tuned models become one bundle without a further option: classifiers, adapters, canopy height."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dinodeploy
from dinodeploy import Embedder, MisuseError
from dinodeploy.bundle.bundle import Bundle
from dinov3_ref.checkpoints import load_checkpoint, random_checkpoint, save_checkpoint
from dinov3_ref.checkpoints.files import read_tensors, write_safetensors
from exporters.heads import choose_head
from exporters.tensorrt.add_engine import EngineRequest, add_engine
from tests.support.canopy import save_canopy_model
from tests.support.images.photographs import photograph, pixels
from tests.support.tiny_models import tiny_config

K, D = 3, 64
NAMES = ("cat", "rocket", "cup")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers-like folder: backbone, a classifier of CLS and the mean patch, class names."""
    root = tmp_path_factory.mktemp("models") / "tuned"
    save_checkpoint(random_checkpoint(tiny_config(depth=2, embed_dim=D, num_heads=1)), "hf", root)
    tensors = {f"backbone.{k}": t.clone() for k, t in read_tensors(root / "model.safetensors").items()}
    generator = torch.Generator().manual_seed(3)
    tensors["classifier.weight"] = torch.randn(K, 2 * D, generator=generator)
    tensors["classifier.bias"] = torch.randn(K, generator=generator)
    write_safetensors(tensors, root / "model.safetensors")
    document = json.loads((root / "config.json").read_text())
    document["id2label"] = {str(index): name for index, name in enumerate(NAMES)}
    (root / "config.json").write_text(json.dumps(document))
    return root


def test_the_head_of_the_weights_and_the_way_around_it(tuned: Path) -> None:
    loaded = load_checkpoint(tuned)
    assert any("left out 2 tensors" in note for note in loaded.notes)
    checkpoint, head = choose_head(loaded, None)
    assert head is not None
    assert head.head.classes == NAMES
    assert not any("left out" in note for note in checkpoint.notes)
    checkpoint, head = choose_head(loaded, "none")
    assert head is None
    assert checkpoint.notes == loaded.notes


def test_misuse(tuned: Path) -> None:
    loaded = load_checkpoint(tuned)
    with pytest.raises(MisuseError, match="pooling is for a classifier inside the weights"):
        choose_head(loaded, "none", pooling="cls")
    with pytest.raises(MisuseError, match="has no classifier"):
        choose_head(loaded, "none", classes=("a",))
    plain = replace(loaded, beside={})
    with pytest.raises(MisuseError, match="has no classifier"):
        choose_head(plain, None, classes=("a",))


def test_an_adapter_and_its_classifier_in_one_bundle(tuned: Path, tmp_path: Path) -> None:
    """The bundle computes what the adapter and its new classifier say, and names both."""
    generator = torch.Generator().manual_seed(5)
    module = "base_model.model.backbone.model.layer.1.attention.v_proj"
    weight = torch.randn(K, 2 * D, generator=generator)
    adapter = {
        f"{module}.lora_A.weight": torch.randn(4, D, generator=generator),
        f"{module}.lora_B.weight": torch.randn(D, 4, generator=generator),
        "base_model.model.classifier.weight": weight,
        "base_model.model.classifier.bias": torch.zeros(K),
    }
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_safetensors(adapter, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": [r"v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "layers_to_transform": [1]}))
    (tmp_path / "names.txt").write_text("\n".join(reversed(NAMES)))
    bundle = dinodeploy.export(
        tuned, tmp_path / "b", adapter=folder, classes=tmp_path / "names.txt", imgsz=64, no_engine=True
    )
    assert bundle.receipt is not None
    assert bundle.receipt.passed
    head, model = bundle.manifest.head, bundle.manifest.model
    assert head is not None
    assert (head.task, head.classes) == ("classify", tuple(reversed(NAMES)))
    assert model.adapter is not None
    assert model.adapter.source == "adapter"
    fingerprint = bundle.manifest.fingerprint("model.onnx", bundle.manifest.preprocess)
    assert fingerprint["adapter_sha256"] == model.adapter.sha256
    assert model.rope_periods == "fp32"
    x = pixels(["coffee"], 64, 64).numpy()
    with Embedder.open(bundle.root, device="onnxruntime") as embedder:
        found = embedder.run(x)
    features = np.concatenate([found["cls"], found["patch"].mean(axis=(1, 2))], axis=1)
    assert np.abs(found["logits"] - features @ weight.numpy().T).max() < 1e-3


@pytest.fixture(scope="module")
def canopy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Bundle]:
    """transformers' model of canopy height, and the fp16 bundle of its folder."""
    folder = tmp_path_factory.mktemp("canopy")
    theirs = save_canopy_model(folder / "chmv2")
    return theirs, dinodeploy.export(
        folder / "chmv2", folder / "b", precision="fp16", imgsz=(64, 96), no_engine=True
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_canopy_height_from_transformers_folder(canopy: tuple[Any, Bundle]) -> None:
    """fp16: the judge accepts it, and predicted metres equal transformers' processor on the same output."""
    theirs, bundle = canopy
    assert bundle.receipt is not None
    assert bundle.receipt.passed
    head = bundle.manifest.head
    assert head is not None
    assert head.task == "depth"
    assert head.settings["condition"].keys() == {"fp32", "fp16"}
    assert {m.metric for m in bundle.receipt.measurements} >= {"depth_error", "depth_median", "condition"}
    x = pixels(["coffee", "astronaut"], 80, 112)
    with torch.no_grad():
        wanted = theirs(x)
    with Embedder.open(bundle.root, device="onnxruntime") as embedder:
        depth = embedder.run(x.numpy())["depth"]
    error = np.linalg.norm(depth[:, 0] - wanted.predicted_depth.numpy())
    assert error / float(wanted.predicted_depth.norm()) < 1e-2  # measured 1e-4

    from transformers import CHMv2ImageProcessor

    from dinodeploy.tasks.depth import predict_one
    from dinodeploy.tasks.prediction import PredictOptions

    photo = photograph("coffee")
    wanted.predicted_depth = torch.from_numpy(depth[:, 0])
    sizes = [(photo.height, photo.width)] * 2
    metres = CHMv2ImageProcessor().post_process_depth_estimation(wanted, sizes)[0]["predicted_depth"]
    made = predict_one({"depth": depth[0]}, head, photo.size, bundle.manifest.preprocess, PredictOptions())
    assert made.map is not None
    assert np.abs(made.map - metres.numpy()).max() < 1e-4 * float(metres.max())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_tensorrt_rtx_builds_canopy_height(canopy: tuple[Any, Bundle]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")
    add_engine(canopy[1].root, EngineRequest(target="rtx", profile="edge", name="canopy"))
    assert (canopy[1].root / "canopy.plan").stat().st_size > 0
