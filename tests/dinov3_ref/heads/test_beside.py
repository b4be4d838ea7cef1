"""The classifier that a fine-tuned file holds beside its backbone: what it reads, names of its classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints import build_model, load_checkpoint, random_checkpoint, save_checkpoint
from dinov3_ref.checkpoints.files import read_tensors, write_safetensors
from dinov3_ref.errors import CheckpointError, ConfigError
from dinov3_ref.heads import DINOClassifier, HeadedBackbone, LoadedHead, head_beside
from dinov3_ref.torchvision_shim import import_torchvision
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_config, tiny_convnext

D, K = 64, 5
CHECKPOINT = random_checkpoint(tiny_config(depth=2, embed_dim=D, num_heads=1))


def linear(stem: str = "classifier", width: int = D) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        f"{stem}.weight": torch.randn(K, width, generator=generator),
        f"{stem}.bias": torch.randn(K, generator=generator),
    }


def tuned(folder: Path, layout: str, head: dict[str, Tensor], prefix: str = "", **config: Any) -> Path:
    """A folder in a library's layout with a classifier in the same file."""
    save_checkpoint(CHECKPOINT, layout, folder / "plain")  # type: ignore[arg-type]
    out = folder / "tuned"
    out.mkdir()
    tensors = read_tensors(folder / "plain" / "model.safetensors")
    write_safetensors({**{prefix + k: v for k, v in tensors.items()}, **head}, out / "model.safetensors")
    document = json.loads((folder / "plain" / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**document, **config}))
    return out


def found(path: Path, **options: Any) -> LoadedHead:
    loaded = head_beside(load_checkpoint(path), **options)
    assert loaded is not None
    return loaded


def logits(path: Path, x: Tensor, **options: Any) -> Tensor:
    checkpoint = load_checkpoint(path)
    loaded = head_beside(checkpoint, **options)
    assert loaded is not None
    with torch.no_grad():
        return HeadedBackbone(build_model(checkpoint), loaded.head)(x)["logits"]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_our_own_classifier_reads_cls(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DINOClassifier(build_model(CHECKPOINT), K).eval()  # type: ignore[arg-type]
    torch.save(model.state_dict(), tmp_path / "tuned.pth")
    x = pixels(["coffee", "chelsea"], 64, 96)
    with torch.no_grad():
        assert relative(logits(tmp_path / "tuned.pth", x), model(x)) < 1e-6


@pytest.mark.parametrize(("pool", "reads"), [("avg", ("patch",)), ("token", ("cls",))])
def test_timm_says_what_is_read(tmp_path: Path, pool: str, reads: tuple[str, ...]) -> None:
    import_torchvision()
    import timm

    folder = tuned(tmp_path, "timm", linear("head"), num_classes=K, global_pool=pool)
    document = json.loads((folder / "config.json").read_text())
    document["pretrained_cfg"]["num_classes"] = K
    (folder / "config.json").write_text(json.dumps(document))
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, global_pool=pool).eval()
    x = pixels(["coffee", "chelsea"], 96, 96)
    theirs.set_input_size((96, 96))
    with torch.no_grad():
        assert relative(logits(folder, x), theirs(x)) < 2e-6  # measured 4e-7
    assert found(folder).head.inputs == reads


def test_a_convnext_has_one_feature(tmp_path: Path) -> None:
    import_torchvision()
    import timm

    checkpoint = random_checkpoint(tiny_convnext())
    save_checkpoint(checkpoint, "timm", tmp_path / "plain")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'plain'}", pretrained=True, num_classes=K).eval()
    nn.init.normal_(theirs.head.fc.weight)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "tuned.pth")
    tuned_checkpoint = load_checkpoint(tmp_path / "tuned.pth")
    loaded = head_beside(tuned_checkpoint)
    assert loaded is not None
    assert loaded.head.inputs == ("cls",)
    x = pixels(["coffee", "chelsea"], 64, 96)
    with torch.no_grad():
        (found,) = loaded.head(build_model(tuned_checkpoint)(x))
        assert relative(found, theirs(x)) < 2e-6


@pytest.mark.parametrize("prefix", ["backbone.", "model.", "dinov3.", "model.backbone."])
@pytest.mark.parametrize("stem", ["classifier", "head", "fc", "classifier.1"])
def test_both_features_need_no_answer(tmp_path: Path, prefix: str, stem: str) -> None:
    stem = f"{prefix.split('.')[0]}.{stem}" if prefix.count(".") == 2 else stem
    loaded = found(tuned(tmp_path, "hf", linear(stem, 2 * D), prefix))
    assert loaded.head.inputs == ("cls", "patch")
    assert loaded.notes == (f"the classifier of {K} classes came along; it reads CLS and the mean patch",)


def test_asks_where_nothing_tells(tmp_path: Path) -> None:
    folder = tuned(tmp_path, "hf", linear(), "backbone.")
    with pytest.raises(ConfigError, match="give --pooling cls or --pooling mean; or --head none") as caught:
        found(folder)
    assert "\n" not in str(caught.value)
    assert found(folder, pooling="mean").head.inputs == ("patch",)
    assert found(folder, pooling="cls").head.inputs == ("cls",)
    with pytest.raises(ConfigError, match="wanted cls or mean"):
        found(folder, pooling="cls_mean")
    with pytest.raises(ConfigError, match="pooling 'max' is unknown"):
        found(folder, pooling="max")


def test_a_file_tuned_in_a_library_keeps_its_exact_periods(tmp_path: Path) -> None:
    assert load_checkpoint(tuned(tmp_path, "hf", linear(), "backbone.")).periods == "fp32"
    assert load_checkpoint(tmp_path / "plain").periods == "bf16"


@pytest.mark.parametrize(
    ("config", "names", "note"),
    [
        ({"id2label": {str(i): name for i, name in enumerate("abcde")}}, tuple("abcde"), ""),
        ({"id2label": {str(i): name for i, name in enumerate("abcda")}}, (*["a (0)"], *"bcd", "a (4)"), ""),
        ({"id2label": {str(i): f"LABEL_{i}" for i in range(K)}}, (), ""),
        ({"id2label": {"0": "a", "1": "b"}}, (), "config.json names 2 classes, the classifier has 5"),
        ({"label_names": list("vwxyz")}, tuple("vwxyz"), ""),
        ({}, (), ""),
    ],
)
def test_class_names(tmp_path: Path, config: dict[str, Any], names: tuple[str, ...], note: str) -> None:
    loaded = found(tuned(tmp_path, "hf", linear(width=2 * D), "backbone.", **config))
    assert loaded.head.classes == names
    assert any(note in one for one in loaded.notes)
    assert found(tmp_path / "tuned", classes="edcba").head.classes == tuple("edcba")


def test_other_parts_are_no_classifier(tmp_path: Path) -> None:
    decoder = {"decoder.weight": torch.ones(2, D)}
    checkpoint = load_checkpoint(tuned(tmp_path, "hf", {**linear(), **decoder}, "backbone."))
    assert head_beside(checkpoint) is None
    assert head_beside(CHECKPOINT) is None


def test_a_classifier_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="wanted 64 features") as caught:
        found(tuned(tmp_path, "hf", linear(width=48), "backbone."))
    assert "\n" not in str(caught.value)
