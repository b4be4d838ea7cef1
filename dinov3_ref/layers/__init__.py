"""Layers of DINOv3 (docs/spec.md 2): one nn.Module a file, under the names of the official repository."""

from dinov3_ref.layers.absolute_position_embedding import AbsolutePositionEmbedding
from dinov3_ref.layers.attention import CausalSelfAttention, LinearKMaskedBias, SelfAttention
from dinov3_ref.layers.block import CausalSelfAttentionBlock, SelfAttentionBlock
from dinov3_ref.layers.dino_head import DINOHead
from dinov3_ref.layers.ffn_layers import Mlp, SwiGLUFFN
from dinov3_ref.layers.layer_scale import LayerScale
from dinov3_ref.layers.patch_embed import PatchEmbed
from dinov3_ref.layers.rms_norm import RMSNorm
from dinov3_ref.layers.rope_position_encoding import RopePositionEmbedding

__all__ = [
    "PatchEmbed",
    "RopePositionEmbedding",
    "AbsolutePositionEmbedding",
    "SelfAttention",
    "CausalSelfAttention",
    "LinearKMaskedBias",
    "SelfAttentionBlock",
    "CausalSelfAttentionBlock",
    "Mlp",
    "SwiGLUFFN",
    "LayerScale",
    "RMSNorm",
    "DINOHead",
]
