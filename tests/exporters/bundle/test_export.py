"""Export from end to end: every layout gives the same bundle, and a failure leaves nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from dinodeploy import Embedder, JudgementError, LintError, MisuseError, OutputExistsError, load_embeddings
from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.bundle.manifest import ModelFacts
from dinodeploy.images.preprocess import Preprocess
from dinov3_ref.checkpoints import (
    NORMALIZATION,
    build_model,
    load_checkpoint,
    random_checkpoint,
    save_checkpoint,
)
from dinov3_ref.models import DinoVisionTransformer
from exporters.bundle import write_bundle as writing
from exporters.bundle.export import ExportOptions, export_checkpoint, export_model
from tests.support.images.photographs import IMAGENET_MEAN, IMAGENET_STD, photograph, pixels
from tests.support.processes.command_line import CommandLine
from tests.support.tiny_models import export_tiny, tiny_config

LAYOUT_LIMIT = 1e-5  # the issue's; measured 0: the same weights to the bit


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "7b"])
def test_every_layout_of_one_model_gives_the_same_embeddings(kind: str, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_config(kind))
    x = pixels(["astronaut", "coffee"], 96, 160).numpy()
    with torch.no_grad():
        wanted = build_model(checkpoint)(torch.from_numpy(x)).numpy()
    for layout, name in (
        ("official", "model.pth"),
        ("official", "model.safetensors"),
        ("hf", "hf"),
        ("timm", "timm"),
    ):
        save_checkpoint(checkpoint, layout, tmp_path / name)
        loaded = load_checkpoint(tmp_path / name)
        bundle, _ = export_checkpoint(loaded, tmp_path / f"{name}.bundle", ExportOptions(), weights="file")
        assert bundle.receipt.passed
        assert bundle.manifest.model.layout == layout
        assert bundle.manifest.model.source == name, "the name, not the path of this machine"
        with Embedder.open(bundle.root) as embedder:
            assert relative(embedder.run(x)["cls"], wanted) <= LAYOUT_LIMIT


def test_options_reach_the_bundle(tmp_path: Path) -> None:
    bundle = export_tiny(tmp_path / "b", preset="timm", imgsz=(96, 128), layers=(0, 2), folds=())
    manifest = bundle.manifest
    assert (manifest.preprocess.preset, manifest.preprocess.height, manifest.preprocess.width) == (
        "timm",
        96,
        128,
    )
    assert manifest.graph.folds == ()
    assert manifest.graph.layers == (0, 2)
    with Embedder.open(bundle.root) as embedder:
        assert embedder.embed([photograph("china")])["layer_2"].shape == (1, 6, 8, 128)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["hf", "eval", "keep-aspect"])
def test_other_presets_are_judged_too(preset: str, tmp_path: Path) -> None:
    assert export_tiny(tmp_path / "b", preset=preset).manifest.preprocess.preset == preset


def test_all_graphs_share_one_file_of_weights(tmp_path: Path) -> None:
    bundle = export_tiny(tmp_path / "b")
    assert set(bundle.manifest.files) == {
        "model.onnx",
        "model.onnx.data",
        "model.cls.onnx",
        "model.cpu.onnx",
        "model.cpu.cls.onnx",
        "golden.safetensors",
    }
    for name, facts in bundle.manifest.engines.items():
        assert facts.files == (name, "model.onnx.data")
        assert (bundle.root / name).stat().st_size < 60_000, "the weights are elsewhere"
    Embedder.open(bundle.root).close()
    data = bundle.root / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    with pytest.raises(Exception, match=r"model\.onnx\.data"):
        Embedder.open(bundle.root)


def test_the_graph_carries_its_own_facts(tiny_bundle: Path) -> None:
    metadata = {p.key: p.value for p in onnx.load(tiny_bundle / "model.onnx").metadata_props}
    assert metadata["dinodeploy.facts"] == open_bundle(tiny_bundle).manifest.facts()
    assert "DINOv3 License" in metadata["licence"]


def test_the_statistics_follow_the_dataset(tmp_path: Path) -> None:
    """SAT weights with LVD's mean and std would be quietly worse."""
    checkpoint = random_checkpoint(tiny_config())
    bundle, _ = export_checkpoint(
        checkpoint, tmp_path / "sat", ExportOptions(), weights="random", dataset="sat493m"
    )
    assert bundle.manifest.preprocess.mean == NORMALIZATION["sat493m"][0]
    assert bundle.manifest.model.dataset == "sat493m"
    with pytest.raises(MisuseError, match="--dataset 'imagenet' is unknown"):
        export_checkpoint(checkpoint, tmp_path / "x", ExportOptions(), weights="random", dataset="imagenet")
    known = replace(checkpoint, dataset="lvd1689m")
    bundle, notes = export_checkpoint(
        known, tmp_path / "asked", ExportOptions(), weights="random", dataset="sat493m"
    )
    assert bundle.manifest.preprocess.mean == NORMALIZATION["sat493m"][0], "who asks gets it, and a word"
    assert any("as asked, though the weights look like lvd1689m's" in note for note in notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("named", "said"),
    [(None, "DINOv3 License"), ("dinov3-license", "DINOv3 License"), ("Apache-2.0", "under Apache-2.0")],
)
def test_whose_weights_they_are_is_said(named: str | None, said: str, tmp_path: Path) -> None:
    """Meta's, unless the config.json beside them names another licence; its mean and std count too."""
    save_checkpoint(random_checkpoint(tiny_config(depth=1)), "official", tmp_path / "w" / "model.safetensors")
    described = {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "license": named}}
    (tmp_path / "w" / "config.json").write_text(json.dumps(described))
    checkpoint = load_checkpoint(tmp_path / "w")
    bundle, _ = export_checkpoint(checkpoint, tmp_path / "b", ExportOptions(), weights="file")
    assert said in bundle.manifest.licence
    assert bundle.manifest.preprocess.mean == (0.5, 0.5, 0.5)
    assert bundle.manifest.model.dataset is None


def test_a_guess_is_said(tmp_path: Path) -> None:
    save_checkpoint(random_checkpoint(tiny_config()), "official", tmp_path / "m.safetensors")
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    _, notes = export_checkpoint(loaded, tmp_path / "b", ExportOptions(), weights="file")
    if loaded.dataset is None:
        assert any("mean and std are ImageNet's" in note for note in notes)


def test_an_existing_bundle_is_replaced_only_when_asked(own_bundle: Path) -> None:
    before = (own_bundle / "model.onnx").read_bytes()
    with pytest.raises(OutputExistsError, match="holds a bundle already; give --overwrite"):
        export_tiny(own_bundle, seed=1)
    assert (own_bundle / "model.onnx").read_bytes() == before
    export_tiny(own_bundle, seed=1, overwrite=True)
    assert (own_bundle / "model.onnx").read_bytes() != before


def test_a_users_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="is not a bundle"):
        export_tiny(tmp_path / "mine", overwrite=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    [
        "bundle.write_bundle.make_golden",
        "bundle.write_bundle.trace",
        "bundle.write_bundle.lint",
        "bundle.engines.write_onnx",
        "bundle.stage.check_bundle",
    ],
)
def test_a_failure_at_any_step_leaves_nothing(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise LintError("planted")

    monkeypatch.setattr(f"exporters.{step}", fail)
    with pytest.raises(Exception, match="planted"):
        export_tiny(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_graph_never_becomes_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault planted in the exporter itself: the judge stands between it and the user."""
    original = writing.make_meta_copy

    def forgetful(model: DinoVisionTransformer, *given: Any):  # type: ignore[no-untyped-def]
        twin, weights = original(model, *given)
        name = "blocks.1.mlp.fc2.bias"
        weights[name] = lambda: torch.zeros(model.embed_dim)
        return twin, weights

    monkeypatch.setattr(writing, "make_meta_copy", forgetful)
    with pytest.raises(JudgementError, match="is not the model here"):
        export_tiny(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_options_that_mean_nothing(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="precision 'fp4' is unknown to this version"):
        ExportOptions(recipe="fp4")
    with pytest.raises(MisuseError, match="dialect 'klingon'"):
        ExportOptions(dialect="klingon")
    with pytest.raises(MisuseError, match="unknown fold 'gelu'"):
        ExportOptions(folds=("gelu",))
    with pytest.raises(MisuseError, match=r"layer 3 does not exist; the model has blocks 0\.\.2"):
        export_tiny(tmp_path / "b", layers=(3,))


@pytest.mark.slow
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_either_gelu_can_be_exported(approximate: str, tmp_path: Path) -> None:
    """DINOv3 has the exact one, a user's model may have the other: the judge tells them apart."""
    checkpoint = random_checkpoint(tiny_config(depth=2))
    model = build_model(checkpoint)
    for block in model.blocks:
        block.get_submodule("mlp").act = torch.nn.GELU(approximate=approximate)  # type: ignore[assignment]
    facts = ModelFacts("custom", 128, 2, 2, 16, 4, "memory", "gelu", "0" * 64, "official", None, "fp32")
    preprocess = Preprocess.from_preset("official", (64, 64), IMAGENET_MEAN, IMAGENET_STD)
    bundle, _ = export_model(model, facts, preprocess, tmp_path / "b", ExportOptions())
    assert bundle.receipt.passed


def test_a_users_own_model_can_be_exported(tmp_path: Path) -> None:
    """A subclass in memory, with a layer of its own (docs/development/seed.md S38)."""

    class Doubled(torch.nn.Module):
        def __init__(self, in_features: int, hidden_features: int, **kwargs: object) -> None:
            super().__init__()
            self.fc1 = torch.nn.Linear(in_features, hidden_features)
            self.fc2 = torch.nn.Linear(hidden_features, in_features)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc2(torch.relu(self.fc1(x)))

    from dinov3_ref.models.vision_transformer import ffn_layer_dict

    ffn_layer_dict["doubled"] = Doubled
    try:
        torch.manual_seed(0)
        config = tiny_config(ffn_layer="doubled", depth=2, layerscale_init=0.5)
        model = DinoVisionTransformer(**config.kwargs())
    finally:
        del ffn_layer_dict["doubled"]
    facts = ModelFacts("custom", 128, 2, 2, 16, 4, "memory", "Doubled", "0" * 64, "official", None, "fp32")
    preprocess = Preprocess.from_preset("official", (64, 64), IMAGENET_MEAN, IMAGENET_STD)
    bundle, _ = export_model(model, facts, preprocess, tmp_path / "b", ExportOptions())
    assert bundle.receipt.passed
    x = pixels(["flower"], 48, 96)
    with Embedder.open(bundle.root) as embedder, torch.no_grad():
        assert relative(embedder.run(x.numpy())["cls"], model(x).numpy()) < 1e-5


@pytest.mark.slow
def test_the_contract_from_command_line_to_vectors(tmp_path: Path, run: CommandLine) -> None:
    """export, check, inspect, embed, load: a real ViT-S, as the README says it."""
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    ran = run("export", "--arch", "vit_small", "--weights", "random", "--out", bundle, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["passed"]
    assert ran.json["weights"] == "random"
    assert (bundle / "model.onnx").is_file()
    assert (bundle / "manifest.json").is_file()
    checked = run("check", bundle, "--json")
    assert (checked.code, checked.json["passed"]) == (0, True)
    assert run("inspect", bundle, "--json").json["model"]["arch"] == "vit_small"
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("china", "flower", "rocket"):
        photograph(name).save(photos / f"{name}.jpg")
    embedded = run("embed", photos, "--engine", bundle, "--out", out, "--imgsz", "64,96", "--json")
    assert (embedded.code, embedded.json["embedded"]) == (0, 3)
    ids, vectors = load_embeddings(out)
    assert [Path(id_).name for id_ in ids] == ["china.jpg", "flower.jpg", "rocket.jpg"]
    assert np.asarray(vectors).shape == (3, 384)
