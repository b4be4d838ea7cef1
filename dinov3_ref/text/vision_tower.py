"""Vision tower of dino.txt: the backbone and a head of two blocks on its normed tokens (docs/spec.md 5.8).

Shapes: B batch, H W pixels, h w patch grid, P = h*w patches, R storage tokens, L = 1 + R + P, D width.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.layers import SelfAttentionBlock, SwiGLUFFN
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from dinov3_ref.text.config import DinoTxtConfig

LAYERSCALE_INIT = 1e-5


class VisionHead(nn.Module):
    """Blocks without RoPE over all tokens, then LayerNorm (eps 1e-5): [B,L,D] -> [B,L,D]."""

    def __init__(self, config: DinoTxtConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        dim = config.vision_dim
        hidden = -(-config.vision_ffn * 3 // 2)  # of which SwiGLU takes two thirds
        self.blocks = nn.ModuleList(
            SelfAttentionBlock(
                dim,
                config.vision_heads,
                ffn_ratio=(hidden + 0.5) / dim,
                init_values=LAYERSCALE_INIT if config.vision_layerscale else None,
                drop_path=drop_path,
                ffn_layer=partial(SwiGLUFFN, align_to=1),
            )
            for _ in range(config.vision_depth)
        )
        self.ln_final = nn.LayerNorm(dim)

    def init_weights(self) -> None:
        """Initialise linear layers with std 0.02 and zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image_tokens: Tensor) -> Tensor:
        for block in self.blocks:
            image_tokens = block(image_tokens)
        return self.ln_final(image_tokens)


class VisionTower(nn.Module):
    """Pixels [B,3,H,W] -> image features [B,2D]: CLS and the mean patch token after the head."""

    def __init__(
        self, backbone: DinoVisionTransformer, config: DinoTxtConfig, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        if backbone.embed_dim != config.vision_dim:
            raise ConfigError(
                f"the vision head reads tokens of {config.vision_dim} channels, the backbone gives "
                f"{backbone.embed_dim}; give the backbone that the head was trained on"
            )
        self.backbone = backbone
        self.head = VisionHead(config, drop_path)

    def get_backbone_features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [B,3,H,W] -> normed CLS [B,D], patch [B,P,D] and storage tokens [B,R,D] of the backbone."""
        (found,) = self.backbone.get_intermediate_layers(
            images, n=1, return_class_token=True, return_extra_tokens=True
        )
        patch_tokens, class_token, storage_tokens = found
        return class_token, patch_tokens, storage_tokens

    def get_class_and_patch_tokens(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [B,3,H,W] -> CLS [B,D] and patches [B,P,D] after the head, patches [B,P,D] before it."""
        class_token, patch_tokens, storage_tokens = self.get_backbone_features(images)
        tokens = self.head(torch.cat((class_token[:, None], storage_tokens, patch_tokens), dim=1))
        return tokens[:, 0], tokens[:, 1 + storage_tokens.shape[1] :], patch_tokens

    def forward(self, images: Tensor) -> Tensor:
        class_token, patch_tokens, _ = self.get_class_and_patch_tokens(images)
        return join_features(class_token, patch_tokens)


def join_features(class_token: Tensor, patch_tokens: Tensor) -> Tensor:
    """CLS [B,D] and patches [B,P,D] -> [B,2D]."""
    return torch.cat((class_token, patch_tokens.mean(dim=1)), dim=-1)
