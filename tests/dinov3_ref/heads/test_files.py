"""Head files: ours and the released layouts load strictly, everything else is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dinov3_ref.errors import CheckpointError, ConfigError, Dinov3Error, KeyMismatch
from dinov3_ref.heads import (
    KINDS,
    DPTDepth,
    DPTHead,
    FeaturePyramid,
    Head,
    LinearClassifier,
    LinearDepth,
    LinearRegressor,
    LinearSegmenter,
    MultiLabelClassifier,
    load_head,
    save_head,
)
from dinov3_ref.heads.files import METADATA_KEY
from dinov3_ref.heads.official import OFFICIAL_LICENCE

HEADS: dict[str, Head] = {
    "linear_classifier": LinearClassifier(8, 3, "cls", classes=("a", "b", "c")),
    "linear_segmenter": LinearSegmenter(8, 3, "patch", (1, 2), batchnorm=True),
    "multi_label_classifier": MultiLabelClassifier(8, 3, "cls", (0.2, 0.5, 0.9)),
    "linear_regressor": LinearRegressor(8, 2, "mean", ("width", "height")),
    "linear_depth": LinearDepth(8, 6, bins="log", norm="softmax"),
    "dpt_depth": DPTDepth(8, (0, 1, 2, 3), 8, (4, 4, 4, 4), 6, 4),
    "feature_pyramid": FeaturePyramid(8, (0, 1, 2, 3)),
}


def features(head: Head) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 8) if name == "cls" else (2, 4, 6, 8) for name in head.inputs]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_every_kind_is_tested() -> None:
    assert {name: type(head) for name, head in HEADS.items()} == KINDS


@pytest.mark.parametrize("kind", HEADS)
def test_a_file_round_trip_keeps_the_head(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    head = HEADS[kind].eval()
    for name, tensor in head.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 2.0)
    path = tmp_path / "head.safetensors"
    save_head(head, path, backbone_sha256="f" * 64, licence="ours", trained={"accuracy": 0.5})
    loaded = load_head(path)
    assert (loaded.kind, loaded.source, loaded.backbone_sha256) == (kind, path.name, "f" * 64)
    assert (loaded.licence, loaded.trained) == ("ours", {"accuracy": 0.5})
    assert loaded.head.classes == head.classes
    assert loaded.head.outputs == head.outputs
    with torch.no_grad():
        for got, wanted in zip(loaded.head(*features(head)), head(*features(head)), strict=True):
            assert torch.equal(got, wanted)


class OwnHead(Head):
    inputs = ("cls",)

    def __init__(self) -> None:
        super().__init__()
        self.outputs = {"score": ("batch", 1)}


def test_a_custom_head_has_no_file_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="OwnHead has no file format; wanted one of linear_classifier"):
        save_head(OwnHead(), tmp_path / "head.safetensors")


def broken(path: Path, **changes: Any) -> Path:
    """A classifier's file with its description changed."""
    save_head(HEADS["linear_classifier"], path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stream:
        about = json.loads(stream.metadata()[METADATA_KEY])
    about |= changes
    about = {key: value for key, value in about.items() if value is not ...}
    save_file(load_file(path), path, metadata={METADATA_KEY: json.dumps(about)})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "is a head of format 2; this version reads 1"),
        ({"kind": "mlp"}, "is a head of kind 'mlp'"),
        ({"config": {"embed_dim": 8}}, "its config does not fit a linear_classifier"),
        ({"config": {"embed_dim": 8, "num_classes": -1}}, "its config does not fit a linear_classifier"),
        ({"classes": ["a"]}, "1 class names for 3 classes"),
        ({"classes": "abc"}, "classes is 'abc'; wanted list"),
        ({"licence": ...}, "wanted exactly format, kind"),
    ],
)
def test_broken_metadata_is_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        load_head(broken(tmp_path / "head.safetensors", **changes))
    assert "\n" not in str(error.value)


def test_tensors_are_checked_strictly(tmp_path: Path) -> None:
    path = broken(tmp_path / "head.safetensors", config={"embed_dim": 9, "num_classes": 3, "pooling": "cls"})
    with pytest.raises(KeyMismatch, match=r"linear.weight expected \[3, 9\] found \[3, 8\]"):
        load_head(path)
    with torch.no_grad():
        poisoned = LinearClassifier(8, 3)
        poisoned.linear.weight[0, 0] = float("nan")
    save_head(poisoned, path)
    with pytest.raises(KeyMismatch, match="NaN or infinity"):
        load_head(path)


# ---- released layouts --------------------------------------------------------------------------


def test_the_released_classifier_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {"weight": torch.randn(10, 16), "bias": torch.randn(10)}
    path = tmp_path / "dinov3_vit7b16_imagenet1k_linear_head-90d8ed92.pth"
    torch.save(tensors, path)
    loaded = load_head(path)
    cls, patch = torch.randn(2, 8), torch.randn(2, 3, 4, 8)
    wanted = torch.cat([cls, patch.mean((1, 2))], -1) @ tensors["weight"].T + tensors["bias"]
    torch.testing.assert_close(loaded.head(cls, patch)[0], wanted)
    assert loaded.licence == OFFICIAL_LICENCE
    assert len(loaded.sha256) == 64


@pytest.fixture(scope="module")
def depther() -> dict[str, Tensor]:
    """The released depth head's tensors with ViT-L's width and slim inner ones, with step counters."""
    torch.manual_seed(0)
    head = DPTHead(1024, 8, (4, 4, 4, 6), 16, 5, batchnorm=True, bias=False)
    return {key: value.clone() for key, value in head.state_dict().items()}


def test_the_released_depther_loads(depther: dict[str, Tensor], tmp_path: Path) -> None:
    assert "reassemble_blocks.batchnorm_layers.3.num_batches_tracked" in depther
    path = tmp_path / "dinov3_vit7b16_synthmix_dpt_head-02040be1.pth"
    torch.save(depther, path)
    loaded = load_head(path)
    assert loaded.head.inputs == ("layer_4", "layer_11", "layer_17", "layer_23")
    assert loaded.head.config()["n_bins"] == 16
    assert any("0.001 to 100 m" in note for note in loaded.notes)
    for key, value in depther.items():
        if "num_batches" not in key:
            assert torch.equal(loaded.head.state_dict()[f"decoder.{key}"], value)


def test_the_released_depther_is_checked_strictly(depther: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    torch.save({key: value for key, value in depther.items() if key != "project.conv.weight"}, path)
    with pytest.raises(KeyMismatch, match=r"project.conv.weight expected \[8, 8, 3, 3\] found nothing"):
        load_head(path)
    torch.save({key: value for key, value in depther.items() if "projects.3" not in key}, path)
    with pytest.raises(CheckpointError, match=r"projects\.3\.conv\.weight is missing"):
        load_head(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"reassemble_blocks.readout_projects.0.0.weight": torch.ones(1)}, "is missing"),
        ({"class_embed.weight": torch.ones(1)}, "detection or Mask2Former head"),
        ({"visual_model.head.weight": torch.ones(1)}, "dino.txt"),
        ({"cls_token": torch.ones(1), "norm.weight": torch.ones(1)}, "a backbone; give it as --weights"),
        ({"fc.weight": torch.ones(1)}, "not a known head: 1 tensors, such as fc.weight"),
        (
            {"weight": torch.ones(3, 5), "bias": torch.ones(3)},
            r"weight is \[3, 5\]; wanted \[K, 2 embed_dim\]",
        ),
        ({"model": {"weight": torch.ones(3, 4)}}, "is not a head: wanted a flat state dict"),
    ],
)
def test_other_files_are_refused(tensors: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=message) as error:
        load_head(path)
    assert "\n" not in str(error.value)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_head(tmp_path / "none.safetensors")
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(Dinov3Error, match="is empty"):
        load_head(tmp_path / "empty.pth")
