"""Linear heads by hand, and what they refuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dinov3_ref.errors import ConfigError
from dinov3_ref.heads import DINOClassifier, HeadedBackbone, LinearClassifier, LinearSegmenter
from dinov3_ref.models import DinoVisionTransformer, vit_small
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_config


@pytest.fixture(scope="module")
def model() -> DinoVisionTransformer:
    from dinov3_ref.checkpoints import build_model, random_checkpoint

    return build_model(random_checkpoint(tiny_config(), 0)).eval()


@pytest.mark.parametrize("pooling", ["cls", "cls_mean"])
def test_classifier_by_hand(pooling: str) -> None:
    torch.manual_seed(0)
    head = LinearClassifier(8, 3, pooling)  # type: ignore[arg-type]
    cls, patch = torch.randn(2, 8), torch.randn(2, 4, 5, 8)
    (logits,) = head(*((cls, patch) if pooling == "cls_mean" else (cls,)))
    x = torch.cat([cls, patch.flatten(1, 2).mean(1)], -1) if pooling == "cls_mean" else cls
    torch.testing.assert_close(logits, x @ head.linear.weight.T)
    assert logits.shape == (2, 3)


def test_segmenter_by_hand() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 5, 8) for _ in range(2)]
    small = LinearSegmenter(8, 4, "patch", layers=(1, 2), batchnorm=True, patch_size=4).eval()
    small.batchnorm.running_mean.normal_()  # type: ignore[union-attr, operator]
    small.batchnorm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    large = LinearSegmenter(8, 4, "pixel", layers=(1, 2), batchnorm=True, patch_size=4).eval()
    large.load_state_dict(small.state_dict())
    (logits,), (pixel,) = small(*maps), large(*maps)
    x = torch.cat(maps, -1)
    bn = small.batchnorm
    x = (x - bn.running_mean) / (bn.running_var + bn.eps).sqrt()  # type: ignore[operator]
    wanted = x @ small.conv.weight[:, :, 0, 0].T
    torch.testing.assert_close(logits.permute(0, 2, 3, 1), wanted)
    assert pixel.shape == (2, 4, 12, 20)
    torch.testing.assert_close(pixel, F.interpolate(logits, size=(12, 20), mode="bilinear"))


def test_only_the_head_is_trained(model: DinoVisionTransformer) -> None:
    both = HeadedBackbone(model, LinearClassifier(128, 3)).train()
    both(pixels(["coffee"], 32, 48))["logits"].sum().backward()
    assert not both.backbone.training
    assert all(p.grad is None and not p.requires_grad for p in both.backbone.parameters())
    assert all(p.grad is not None for p in both.head.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearClassifier(8, 0), "num_classes is 0"),
        (lambda: LinearClassifier(8, 2, "max"), "pooling 'max' is unknown"),  # type: ignore[arg-type]
        (lambda: LinearClassifier(8, 2, classes=("a",)), "1 class names for 2 classes"),
        (
            lambda: LinearClassifier(8, 2, classes=("a", "a")),
            "2 class names for 2 classes; wanted one different name each",
        ),
        (lambda: LinearSegmenter(8, 2, "full"), "size 'full' is unknown"),  # type: ignore[arg-type]
    ],
)
def test_bad_heads_are_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.fixture(scope="module")
def backbone() -> DinoVisionTransformer:
    torch.manual_seed(0)
    return vit_small(embed_dim=64, num_heads=2).eval()  # twelve blocks


def test_dino_classifier_is_trained_and_becomes_a_head(backbone: DinoVisionTransformer) -> None:
    x, y = pixels(["coffee", "rocket", "chelsea"], 32, 48), torch.tensor([0, 1, 0])
    classifier = DINOClassifier(backbone, num_classes=2)
    optimizer = torch.optim.Adam(classifier.classifier.parameters(), lr=0.1)
    losses = []
    for _ in range(5):
        classifier.train()
        loss = torch.nn.functional.cross_entropy(classifier(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not classifier.backbone.training
    head = classifier.to_head(("still", "moving"))
    torch.testing.assert_close(HeadedBackbone(backbone, head)(x)["logits"], classifier(x))
    assert head.classes == ("still", "moving")
