"""Snippets about using a model (docs/development/seed.md, S28-S34), with a ViT-S as ViT-B."""

# ruff: noqa: RET504  (lines of the document)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from dinov3_ref.torchvision_shim import import_torchvision
from tests.compatibility.snippets import SMALL
from tests.support.images.photographs import photograph, pixels


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seed") / "checkpoint.pth"
    save_checkpoint(random_checkpoint("vit_small"), "official", path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> DinoVisionTransformer:
    from dinov3_ref.configs import get_default_config
    from dinov3_ref.models import build_model_for_eval

    config = get_default_config()
    config.student.arch = "vit_small"
    config.student.patch_size = 16
    model = build_model_for_eval(config=config, pretrained_weights=checkpoint, shard_unsharded_model=False)
    model.eval()
    return model


@pytest.fixture(scope="module")
def img_tensor() -> Tensor:
    """S30's transform on a photograph, [1,3,224,224]."""
    import_torchvision()
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    img = photograph("chelsea").convert("RGB")
    return transform(img).unsqueeze(0)


def test_S28_build_model_for_eval(checkpoint: Path, model: DinoVisionTransformer) -> None:
    """Also on a CPU; the checkpoint sets options that `config` lacks; without one, weights are random."""
    from dinov3_ref.configs import get_default_config
    from dinov3_ref.models import build_model_for_eval

    assert not model.training
    assert (model.n_storage_tokens, model.norm.eps) == (4, 1e-5)  # of the file, not defaults of the class
    saved = torch.load(checkpoint)
    assert torch.equal(model.state_dict()["blocks.3.mlp.fc1.weight"], saved["blocks.3.mlp.fc1.weight"])
    config = get_default_config()
    config.student.arch = "vit_small"
    fresh = build_model_for_eval(config=config, pretrained_weights=None)
    assert fresh(pixels(["coffee"], 32, 48)).isfinite().all()


def test_S29_get_default_config() -> None:
    from dinov3_ref.configs import get_default_config

    config = get_default_config()
    config.student.arch = "vit_base"
    config.student.patch_size = 16
    assert (config.student.arch, config.student.patch_size) == ("vit_base", 16)
    assert get_default_config().student.arch != "vit_base", "each call gives a configuration of its own"


def test_S30_transform(img_tensor: Tensor) -> None:
    """Bilinear, torchvision's default; published evaluations use bicubic (preset `eval`)."""
    assert img_tensor.shape == (1, 3, 224, 224)
    assert img_tensor.abs().max() < 2.7  # normalised with ImageNet's mean and std


def test_S31_features_of_a_photograph(model: DinoVisionTransformer, img_tensor: Tensor) -> None:
    with torch.no_grad():
        features = model(img_tensor)  # [1, embed_dim]
        features_dict = model(img_tensor, is_training=True)
        cls_token = features_dict["x_norm_clstoken"]  # [1, D]
        patch_tokens = features_dict["x_norm_patchtokens"]  # [1, num_patches, D]
    assert features.shape == (1, model.embed_dim)
    assert torch.equal(features, cls_token)
    assert patch_tokens.shape == (1, 196, model.embed_dim)


def test_S32_the_last_four_layers(model: DinoVisionTransformer, img_tensor: Tensor) -> None:
    with torch.no_grad():
        intermediate_features = model.get_intermediate_layers(
            img_tensor, n=4, reshape=True, return_class_token=True, norm=True
        )
    assert isinstance(intermediate_features, tuple)
    assert len(intermediate_features) == 4
    for patch_features, cls_token in intermediate_features:
        assert patch_features.shape == (1, 384, 14, 14)
        assert cls_token.shape == (1, 384)


class DINOClassifier(nn.Module):
    """S33, as written."""

    def __init__(self, dinov3_backbone: Any, num_classes: int = 1000) -> None:
        super().__init__()
        self.backbone = dinov3_backbone
        self.backbone.eval()
        for param in self.backbone.parameters():
            param.requires_grad = False
        self.classifier = nn.Linear(self.backbone.embed_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        logits = self.classifier(features)
        return logits


def test_S33_classifier() -> None:
    classifier = DINOClassifier(DinoVisionTransformer(**SMALL), num_classes=100)
    logits = classifier(pixels(["coffee", "china"], 32, 48))
    assert logits.shape == (2, 100)
    logits.sum().backward()
    trained = [name for name, parameter in classifier.named_parameters() if parameter.grad is not None]
    assert trained == ["classifier.weight", "classifier.bias"]


class DINOFeatureExtractor(nn.Module):
    """S34, as written."""

    def __init__(self, dinov3_backbone: Any) -> None:
        super().__init__()
        self.backbone = dinov3_backbone
        self.backbone.eval()

    def forward(self, x: Tensor) -> Any:
        features = self.backbone.get_intermediate_layers(
            x,
            n=[3, 5, 7, 11],
            reshape=True,
        )
        return features


def test_S34_pyramid(model: DinoVisionTransformer) -> None:
    x = pixels(["rocket"], 64, 96)
    with torch.no_grad():
        features = DINOFeatureExtractor(model)(x)
        last = model(x, is_training=True)["x_norm_patchtokens"]
    assert [tuple(level.shape) for level in features] == [(1, 384, 4, 6)] * 4
    torch.testing.assert_close(features[-1].flatten(2).transpose(1, 2), last)
