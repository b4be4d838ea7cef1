"""DINOv3 models: constructors, the table of released ones, and building from a configuration."""

from dinov3_ref.models.attention_maps import attention_maps, record_attention
from dinov3_ref.models.build import build_model, build_model_for_eval, build_model_from_cfg
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.models.released import ARCHITECTURES, RELEASED, ReleasedModel, find_released, get_architecture
from dinov3_ref.models.vision_transformer import (
    DinoVisionTransformer,
    vit_7b,
    vit_base,
    vit_giant2,
    vit_huge2,
    vit_huge_plus,
    vit_large,
    vit_large_plus,
    vit_small,
    vit_small_plus,
    vit_so400m,
)

__all__ = [
    "DinoVisionTransformer",
    "vit_small",
    "vit_small_plus",
    "vit_base",
    "vit_large",
    "vit_large_plus",
    "vit_so400m",
    "vit_huge2",
    "vit_huge_plus",
    "vit_giant2",
    "vit_7b",
    "build_model",
    "build_model_for_eval",
    "build_model_from_cfg",
    "attention_maps",
    "record_attention",
    "ViTConfig",
    "ARCHITECTURES",
    "RELEASED",
    "ReleasedModel",
    "find_released",
    "get_architecture",
]
