from __future__ import annotations

import pytest
import torch

from dinov3_ref.errors import ConfigError
from dinov3_ref.models import DinoVisionTransformer
from dinov3_ref.text import VisionHead, VisionTower
from tests.support.text.tiny_text import tiny_text_config
from tests.support.tiny_models import tiny_config


def test_the_ffn_has_the_width_of_the_file() -> None:
    for width in (352, 349, 64):
        head = VisionHead(tiny_text_config(vision_ffn=width))
        assert head.get_parameter("blocks.0.mlp.w1.weight").shape == (width, 128)


def test_a_backbone_of_another_width_is_refused() -> None:
    with torch.device("meta"):
        backbone = DinoVisionTransformer(**tiny_config("7b").kwargs())
    with pytest.raises(ConfigError, match="128 channels, the backbone gives 256"):
        VisionTower(backbone, tiny_text_config())
