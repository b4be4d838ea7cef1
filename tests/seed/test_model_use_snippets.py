"""The seed document's snippets that use a model or take it apart (SEED S28-S38, SPEC 8.1).

As in `test_model_snippets.py`: the document's words, with `dinov3` read as `dinov3_ref`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from dinov3_ref.configs import get_default_config
from dinov3_ref.layers.attention import SelfAttention
from dinov3_ref.layers.ffn_layers import Mlp, SwiGLUFFN
from dinov3_ref.models import build_model_for_eval
from dinov3_ref.models.vision_transformer import DinoVisionTransformer, ffn_layer_dict
from dinov3_ref.torchvision_shim import import_torchvision
from tests.photographs import photograph, pixels

SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DinoVisionTransformer:
    """S28, S29: loading a pre-trained model, with ViT-S for ViT-B."""
    path = tmp_path_factory.mktemp("seed") / "checkpoint.pth"
    save_checkpoint(random_checkpoint("vit_small"), "official", path)
    config = get_default_config()
    config.student.arch = "vit_small"
    config.student.patch_size = 16
    built = build_model_for_eval(config=config, pretrained_weights=path, shard_unsharded_model=False)
    built.eval()
    return built


@pytest.fixture(scope="module")
def img_tensor() -> Tensor:
    """S30: the document's transform on a photograph, [1,3,224,224]."""
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
    return transform(photograph("chelsea").convert("RGB")).unsqueeze(0)


# ---- use: S28-S34 -------------------------------------------------------------------------------


def test_s28_to_s31_features_of_a_photograph(model: DinoVisionTransformer, img_tensor: Tensor) -> None:
    assert img_tensor.shape == (1, 3, 224, 224)
    with torch.no_grad():
        features = model(img_tensor)
        features_dict = model(img_tensor, is_training=True)
    assert features.shape == (1, model.embed_dim)
    assert torch.equal(features, features_dict["x_norm_clstoken"])
    assert features_dict["x_norm_patchtokens"].shape == (1, 196, model.embed_dim)


def test_s32_the_last_four_layers(model: DinoVisionTransformer, img_tensor: Tensor) -> None:
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
        return self.classifier(features)


def test_s33_classifier() -> None:
    classifier = DINOClassifier(DinoVisionTransformer(**SMALL), num_classes=100)
    logits = classifier(pixels(["coffee", "china"], 32, 48))
    assert logits.shape == (2, 100)
    logits.sum().backward()
    assert [name for name, p in classifier.named_parameters() if p.grad is not None] == [
        "classifier.weight",
        "classifier.bias",
    ]


class DINOFeatureExtractor(nn.Module):
    """S34, as written."""

    def __init__(self, dinov3_backbone: Any) -> None:
        super().__init__()
        self.backbone = dinov3_backbone
        self.backbone.eval()

    def forward(self, x: Tensor) -> Any:
        return self.backbone.get_intermediate_layers(x, n=[3, 5, 7, 11], reshape=True)


def test_s34_pyramid(model: DinoVisionTransformer) -> None:
    with torch.no_grad():
        features = DINOFeatureExtractor(model)(pixels(["rocket"], 64, 96))
    assert [tuple(level.shape) for level in features] == [(1, 384, 4, 6)] * 4


# ---- taking it apart: S35-S38 -------------------------------------------------------------------


class CustomAttention(SelfAttention):
    """S35: attention that counts its calls."""

    def __init__(self, *args: Any, custom_param: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.custom_param = custom_param
        self.calls = 0

    def compute_attention(self, qkv: Tensor, attn_bias: Any = None, rope: Any = None) -> Tensor:
        B, N, _ = qkv.shape
        C = self.qkv.in_features
        q, k, v = torch.unbind(qkv.reshape(B, N, 3, self.num_heads, C // self.num_heads), 2)
        assert q.shape == k.shape == (B, N, self.num_heads, C // self.num_heads)
        self.calls += 1
        return v.reshape(B, N, C)


def test_s35_custom_attention() -> None:
    model = DinoVisionTransformer(**SMALL, attn_class=CustomAttention, drop_path_rate=0.5)
    x = pixels(["coffee", "china"], 32, 48)
    assert model.eval()(x).shape == (2, 64)
    assert model.train()(x).shape == (2, 64)
    assert [block.attn.calls for block in model.blocks] == [2, 2]  # type: ignore[union-attr]
    model.blocks[0].attn = CustomAttention(64, num_heads=2, custom_param=0.5)  # or one block alone
    assert model.eval()(x).shape == (2, 64)


def test_s36_s37_ffn_names() -> None:
    kinds = {"mlp": Mlp, "swiglu": SwiGLUFFN, "swiglu32": SwiGLUFFN, "swiglu64": SwiGLUFFN}
    for name, kind in (kinds | {"swiglu128": SwiGLUFFN}).items():
        model = DinoVisionTransformer(**SMALL, ffn_layer=name)
        assert isinstance(model.blocks[0].mlp, kind)


class CustomFFN(nn.Module):
    """S38, as written."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Any = nn.GELU,
        drop: float = 0.0,
        bias: bool = True,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features, bias=bias, device=device)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, in_features, bias=bias, device=device)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = self.act(x)
        x = self.drop(x)
        x = self.fc2(x)
        return self.drop(x)


@pytest.fixture
def registered() -> Iterator[None]:
    ffn_layer_dict["custom"] = CustomFFN
    yield
    del ffn_layer_dict["custom"]


@pytest.mark.usefixtures("registered")
def test_s38_custom_ffn() -> None:
    """With drop-path training, too, where the official blocks want a list forward."""
    model = DinoVisionTransformer(**SMALL, ffn_layer="custom", drop_path_rate=0.3)
    assert isinstance(model.blocks[1].mlp, CustomFFN)
    x = pixels(["coffee", "china"], 32, 48)
    assert model.eval()(x).shape == (2, 64)
    local = pixels(["coffee", "china"], 16, 32)
    assert [out.shape for out in model.train()([x, local])] == [(2, 64), (2, 64)]
