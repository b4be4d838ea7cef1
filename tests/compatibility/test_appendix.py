"""The two programs of the original document, from checkpoint to result (docs/development/seed.md, S63-S68).

Files are of the form that the document loads, {'model': …}, with a released model's tensors: storage
tokens, LayerScale, masked k bias, eps 1e-5. The document's `vit_base(patch_size=16)` has none of these. In
the published code the strict load fails, and `strict=False` gives other features without a word; here the
model takes them over and warns, so both programs compute what the checkpoint's model computes.
"""

# ruff: noqa: RET504  (lines of the document)

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dinov3_ref import models
from dinov3_ref.checkpoints import build_model, load_checkpoint, random_checkpoint
from dinov3_ref.errors import CheckpointWarning
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.torchvision_shim import import_torchvision
from tests.compatibility.snippets import vit_base
from tests.support.images.photographs import PHOTOGRAPHS, photograph, pixels

PRETRAIN = "dinov3_vitb16_pretrain.pth"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with the checkpoint in it; `.cuda()` does nothing."""
    released = random_checkpoint(ViTConfig(embed_dim=64, depth=2, num_heads=1))
    torch.save({"model": released.state}, tmp_path / PRETRAIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nn.Module, "cuda", lambda self: self)
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    return tmp_path


@pytest.fixture
def reference(folder: Path) -> nn.Module:
    return build_model(load_checkpoint(folder / PRETRAIN))


@pytest.fixture
def transform() -> Callable[[Image.Image], Tensor]:
    import_torchvision()
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


def test_S63_vit_base_from_models() -> None:
    """The published package does not export it there."""
    from dinov3_ref.models import vit_base

    assert vit_base(patch_size=16, device="meta").embed_dim == 768


def test_S64_checkpoint_with_model_inside(folder: Path, reference: nn.Module) -> None:
    """`load_checkpoint` reads {'model': …} as in the document and flat files as released."""
    checkpoint = torch.load(PRETRAIN)
    torch.save(checkpoint["model"], folder / "flat.pth")
    flat = build_model(load_checkpoint(folder / "flat.pth"))
    x = pixels(["coffee"], 32, 48)
    assert torch.equal(flat(x), reference(x))


def test_S65_vit_base_loads_without_strict(folder: Path, reference: nn.Module) -> None:
    """The backbone adopts the options of the checkpoint and warns; nothing is ignored silently."""
    backbone = vit_base(patch_size=16)
    optimizer = torch.optim.Adam(backbone.parameters())
    checkpoint = torch.load(PRETRAIN)
    with pytest.warns(
        CheckpointWarning, match=r"4 storage tokens, LayerScale, a masked k bias, .* eps 1e-05"
    ):
        backbone.load_state_dict(checkpoint["model"], strict=False)
    x = pixels(["coffee"], 48, 80)
    assert torch.equal(backbone.eval()(x), reference(x))
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(backbone.blocks[0].attn.qkv.weight) in held, "what was there stays the same parameter"

    partial = {key: value for key, value in checkpoint["model"].items() if "blocks.1" not in key}
    with pytest.warns(CheckpointWarning, match="NOT the checkpoint's model: .* blocks.1.norm1.weight"):
        vit_base(patch_size=16).load_state_dict(partial, strict=False)
    with pytest.raises(RuntimeError, match="Missing key"):
        vit_base(patch_size=16).load_state_dict(partial)
    foreign = {**checkpoint["model"], "decoder.weight": torch.ones(1)}
    with pytest.warns(CheckpointWarning, match="left out: .*decoder.weight"):
        backbone.load_state_dict(foreign, strict=False)


VITS = [row for row in models.RELEASED if row.arch.startswith("vit_")]


@pytest.mark.parametrize("row", VITS, ids=lambda row: row.name)
def test_every_released_file_is_adopted_whole(row: models.ReleasedModel) -> None:
    """All keys of each released model, in full size on the meta device."""
    state = models.DinoVisionTransformer(**row.config.kwargs(), device="meta").state_dict()
    model = getattr(models, row.arch)(
        device="meta", qkv_bias=row.config.qkv_bias, ffn_layer=row.config.ffn_layer
    )
    with pytest.warns(CheckpointWarning, match="4 storage tokens"):
        model.load_state_dict(state, strict=True, assign=True)
    assert model.state_dict().keys() == state.keys()
    assert model.rope_embed.dtype == torch.float32


def test_S66_linear_classifier_on_cifar10(
    folder: Path,
    transform: Any,
    reference: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The whole program, with torchvision's data set class and eighty images in its file format."""
    from torchvision import datasets

    write_cifar10(folder / "data")
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["data_batch_1", None]])
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", None)  # None: its checksum is not verified
    backbone = vit_base(patch_size=16)
    checkpoint = torch.load("dinov3_vitb16_pretrain.pth")
    with pytest.warns(CheckpointWarning):
        backbone.load_state_dict(checkpoint["model"], strict=False)

    class ImageClassifier(nn.Module):
        def __init__(self, backbone: Any, num_classes: int) -> None:
            super().__init__()
            self.backbone = backbone
            for param in self.backbone.parameters():
                param.requires_grad = False

            self.classifier = nn.Linear(backbone.embed_dim, num_classes)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.backbone(x)
            logits = self.classifier(features)
            return logits

    model = ImageClassifier(backbone, num_classes=10).cuda()
    train_dataset = datasets.CIFAR10(root="./data", train=True, download=True, transform=transform)
    train_loader = DataLoader(train_dataset, batch_size=32, shuffle=True)

    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.classifier.parameters(), lr=1e-3)

    images, labels = next(iter(DataLoader(train_dataset, batch_size=80)))
    before = criterion(model(images), labels)
    for epoch in range(2):  # 10 in the document
        model.train()
        for images, labels in train_loader:
            images, labels = images.cuda(), labels.cuda()

            optimizer.zero_grad()
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()

        print(f"Epoch {epoch + 1}, Loss: {loss.item():.4f}")
    assert capsys.readouterr().out.count("Loss: ") == 2
    images, labels = next(iter(DataLoader(train_dataset, batch_size=80)))
    assert criterion(model(images), labels) < before
    assert torch.equal(model.backbone.eval()(images), reference(images)), "the backbone stayed frozen"


def test_S67_strict_load_for_retrieval(folder: Path, reference: nn.Module) -> None:
    """The published code raises a KeyError, then an error about unexpected keys."""
    model = vit_base(patch_size=16)
    with pytest.warns(CheckpointWarning, match="storage tokens"):
        model.load_state_dict(torch.load("dinov3_vitb16_pretrain.pth")["model"])
    model.eval().cuda()
    x = pixels(["coffee"], 48, 80)
    assert torch.equal(model(x), reference(x))


def test_S68_retrieval(folder: Path, reference: nn.Module, transform: Any) -> None:
    model = reference
    names = ["astronaut", "motorcycle_left", "chelsea", "coffee", "rocket", "flower"]
    for name in (*names, "motorcycle_right"):
        photograph(name).save(folder / f"{name}.png")

    def extract_features(image_path: str) -> Tensor:
        img = Image.open(image_path).convert("RGB")
        img_tensor = transform(img).unsqueeze(0).cuda()

        with torch.no_grad():
            features = model(img_tensor)  # [1, 768]

        features = F.normalize(features, p=2, dim=-1)
        return features

    image_paths = [f"{name}.png" for name in names]
    features_list = [extract_features(path) for path in image_paths]
    features_db = torch.cat(features_list, dim=0)  # [N, 768]

    query_features = extract_features("motorcycle_right.png")
    similarities = torch.matmul(query_features, features_db.T)  # [1, N]
    top_k_indices = similarities.topk(k=5).indices

    most_similar = [image_paths[i] for i in top_k_indices[0]]
    assert most_similar[0] == "motorcycle_left.png", "the other half of the stereo pair"
    assert len(set(most_similar)) == 5


def write_cifar10(root: Path) -> None:
    """Eighty images of 32x32 pixels in CIFAR10's file format, where torchvision expects them."""
    base = root / "cifar-10-batches-py"
    base.mkdir(parents=True)
    images = [np.asarray(photograph(name).resize((32, 32))).transpose(2, 0, 1) for name in PHOTOGRAPHS]
    rows = np.stack([image.reshape(-1) for image in images] * 8)
    batch = {"data": rows, "labels": [index % 10 for index in range(len(rows))]}
    (base / "data_batch_1").write_bytes(pickle.dumps(batch))
    meta = pickle.dumps({"label_names": [f"class {index}" for index in range(10)]})
    (base / "batches.meta").write_bytes(meta)
