"""DINOv3 models: constructors, the table of released models, and building from a configuration."""

from dinov3_ref.models.attention_maps import attention_maps, record_attention
from dinov3_ref.models.backbone import Backbone, input_channels, named_blocks, stride_of
from dinov3_ref.models.build import build_model, build_model_for_eval, build_model_from_cfg
from dinov3_ref.models.config import ConvNeXtConfig, ModelConfig, ViTConfig
from dinov3_ref.models.convnext import ConvNeXt, convnext_base, convnext_large, convnext_small, convnext_tiny
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
    "ConvNeXt",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "convnext_large",
    "Backbone",
    "named_blocks",
    "stride_of",
    "input_channels",
    "build_model",
    "build_model_for_eval",
    "build_model_from_cfg",
    "attention_maps",
    "record_attention",
    "ViTConfig",
    "ConvNeXtConfig",
    "ModelConfig",
    "ARCHITECTURES",
    "RELEASED",
    "ReleasedModel",
    "find_released",
    "get_architecture",
]
