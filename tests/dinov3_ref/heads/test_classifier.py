"""DINOClassifier: training, and its layer as a head."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.heads import DINOClassifier, HeadedBackbone
from dinov3_ref.models import DinoVisionTransformer, vit_small
from tests.support.photographs import pixels


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
