"""The pyramid's four maps, and the two feature-extractor classes on a frozen backbone."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.errors import ConfigError
from dinov3_ref.heads import DINOFeatureExtractor, FeaturePyramid, HeadedBackbone
from dinov3_ref.models import DinoVisionTransformer, vit_small
from tests.support.images.photographs import pixels


@pytest.fixture(scope="module")
def backbone() -> DinoVisionTransformer:
    torch.manual_seed(0)
    return vit_small(embed_dim=64, num_heads=2).eval()  # twelve blocks


def test_dino_feature_extractor(backbone: DinoVisionTransformer) -> None:
    x = pixels(["coffee"], 64, 96)
    maps = DINOFeatureExtractor(backbone)(x)
    assert [tuple(m.shape) for m in maps] == [(1, 64, 4, 6)] * 4
    wanted = backbone.get_intermediate_layers(x, n=[3, 5, 7, 11], reshape=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, wanted, strict=True))


def test_pyramid_has_four_strides(backbone: DinoVisionTransformer) -> None:
    x = pixels(["coffee"], 64, 96)
    levels = DINOFeatureExtractor(backbone, pyramid=True)(x)
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    (deep,) = backbone.get_intermediate_layers(x, n=[11], reshape=True)
    assert torch.allclose(levels[3][..., 0, 0], deep[..., :2, :2].mean((2, 3)), atol=1e-6)
    head = FeaturePyramid(64, (3, 5, 7, 11))
    named = HeadedBackbone(backbone, head)(x)
    assert list(named) == ["level_4", "level_8", "level_16", "level_32"]
    assert all(torch.equal(a, b) for a, b in zip(named.values(), levels, strict=True))


def test_a_pyramid_needs_four_blocks() -> None:
    for layers in ((1, 2, 3), (3, 2, 1, 0), (1, 1, 2, 3)):
        with pytest.raises(ConfigError, match="wanted four different blocks"):
            FeaturePyramid(64, layers)
