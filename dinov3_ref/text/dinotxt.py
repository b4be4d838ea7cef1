"""`DINOTxt`: images and texts in one space, under the official method names (docs/spec.md 5.8).

Shapes: B images, T texts, N tokens of a text, P patches, D width of the backbone, E = 2D.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from dinov3_ref.text.config import DinoTxtConfig
from dinov3_ref.text.text_tower import TextTower
from dinov3_ref.text.vision_tower import VisionTower, join_features

LOGIT_SCALE_INIT = math.log(1 / 0.07)  # CLIP's temperature (arXiv:2103.00020, 2.3)


class DINOTxt(nn.Module):
    """A vision tower, a text tower and the logarithm of the scale of their cosines, [1]."""

    def __init__(self, vision_tower: VisionTower, text_tower: TextTower) -> None:
        super().__init__()
        self.visual_model = vision_tower
        self.text_model = text_tower
        self.logit_scale = nn.Parameter(torch.full((1,), LOGIT_SCALE_INIT))

    def init_weights(self) -> None:
        """Initialise the vision head, the text tower and the scale; the backbone stays."""
        self.visual_model.head.init_weights()
        self.text_model.init_weights()
        nn.init.constant_(self.logit_scale, LOGIT_SCALE_INIT)

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Pixels [B,3,H,W] -> image features [B,E]; `normalize` divides each by its length."""
        features: Tensor = self.visual_model(image)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Token ids [T,N] -> text features [T,E]. The second half is comparable with patches."""
        features: Tensor = self.text_model(text)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_image_with_patch_tokens(
        self, image: Tensor, normalize: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [B,3,H,W] -> image features [B,E], patches [B,P,D] after the head and before it.

        `normalize` is of the features alone.
        """
        class_token, patches, backbone_patches = self.visual_model.get_class_and_patch_tokens(image)
        features = join_features(class_token, patches)
        return F.normalize(features, dim=-1) if normalize else features, patches, backbone_patches

    def get_logits(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels, token ids -> scaled cosines of images with texts [B,T], of texts with images [T,B]."""
        images, texts = self.encode_image(image, normalize=True), self.encode_text(text, normalize=True)
        logits = self.logit_scale.exp() * images @ texts.T
        return logits, logits.T

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Normalised image features [B,E] and text features [T,E], the scale [1], patches [B,P,D] after the
        head and before it."""
        images, patches, backbone_patches = self.encode_image_with_patch_tokens(image, normalize=True)
        return (
            images,
            self.encode_text(text, normalize=True),
            self.logit_scale.exp(),
            patches,
            backbone_patches,
        )


def build_dinotxt(
    backbone: DinoVisionTransformer,
    config: DinoTxtConfig,
    *,
    drop_path: float = 0.0,
    dropout_prob: float = 0.0,
) -> DINOTxt:
    """A model of `config` around `backbone`; its weights are to be initialised or loaded.

    Raises ConfigError for a backbone of another width.
    """
    return DINOTxt(VisionTower(backbone, config, drop_path), TextTower(config, dropout_prob))
