"""CLIP loss: every image finds its caption among those of the global batch, and every caption its image.

Source: docs/spec.md 5.8; Radford et al. 2021 (arXiv:2103.00020), figure 3.

    L = (CE(s · I Tᵀ, i) + CE(s · T Iᵀ, i)) / 2

Shapes: B pairs of this rank, W ranks, E embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dinov3_ref.distributed import gather_rows
from dinov3_ref.loss.precision import at_least_fp32, no_autocast


def clip_loss(images_BE: Tensor, texts_BE: Tensor, scale: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Unit vectors of B pairs and the scale of cosines, [1] -> (loss, metrics), over the pairs of all ranks.

    Every rank computes the whole loss, so its value is equal on all; the mean gradient over the ranks is that
    of one rank with all pairs. Metrics: the share of images and of captions whose partner is the nearest.
    """
    with no_autocast(images_BE):
        images = gather_rows(at_least_fp32(images_BE))
        texts = gather_rows(at_least_fp32(texts_BE))
        logits = at_least_fp32(scale) * images @ texts.T  # [W·B, W·B]
        partners = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, partners) + F.cross_entropy(logits.T, partners)) / 2
    with torch.no_grad():
        metrics = {
            "image_accuracy": (logits.argmax(dim=1) == partners).float().mean(),
            "text_accuracy": (logits.argmax(dim=0) == partners).float().mean(),
        }
    return loss, metrics
