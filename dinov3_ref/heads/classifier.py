"""Linear classifier: a frozen backbone and a linear layer on its CLS token.

Source: docs/development/seed.md S33, S66.

Shapes: B batch, D embed_dim, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinov3_ref.heads.linear import LinearClassifier
from dinov3_ref.models import DinoVisionTransformer


class DINOClassifier(nn.Module):
    """pixels [B,3,H,W] -> logits [B,K]. Only `classifier` is trained.

    `train()` leaves the backbone in eval mode: drop path and RoPE augmentation would change the features of
    an image at every step.
    """

    def __init__(self, dinov3_backbone: DinoVisionTransformer, num_classes: int = 1000) -> None:
        super().__init__()
        self.backbone = dinov3_backbone.eval()
        for parameter in self.backbone.parameters():
            parameter.requires_grad = False
        self.classifier = nn.Linear(self.backbone.embed_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        return self.classifier(features)

    def train(self, mode: bool = True) -> DINOClassifier:
        super().train(mode)
        self.backbone.eval()
        return self

    def to_head(self, classes: tuple[str, ...] = ()) -> LinearClassifier:
        """The trained layer as a head, for export with the backbone."""
        head = LinearClassifier(self.backbone.embed_dim, self.classifier.out_features, "cls", classes)
        head.linear.load_state_dict(self.classifier.state_dict())
        return head
