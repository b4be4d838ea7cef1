"""timm's models: DINOv3's are recognised by their RoPE and shape, others are not."""

from __future__ import annotations

import pytest

from dinodeploy.errors import ExportError
from exporters.modules.backbones.from_timm import is_convnext, is_dinov3, is_feature_list
from exporters.modules.backbones.swap import swap
from tests.support.whole_models import timm_model


def test_models_are_recognised() -> None:
    assert is_dinov3(timm_model())
    assert not is_dinov3(timm_model("eva02_tiny_patch14_224"))
    assert is_convnext(timm_model("convnext_tiny"))
    assert is_feature_list(timm_model("convnext_tiny", features_only=True))
    assert not is_feature_list(timm_model("convnext_tiny", features_only=True, out_indices=(0, 1)))


def test_an_eva_of_another_kind_is_no_backbone() -> None:
    with pytest.raises(ExportError, match="has no DINOv3 backbone inside"):
        swap(timm_model("eva02_tiny_patch14_224"))


def test_another_rope_is_refused() -> None:
    model = timm_model()
    model.rope.grid_offset = 0.5
    with pytest.raises(ExportError, match=r"its RoPE has grid_offset 0\.5; wanted 0\.0"):
        swap(model)
