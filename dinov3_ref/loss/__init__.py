"""Losses of DINOv3 training (docs/spec.md 4.4-4.7, 5.8), one per file; all handle fp16 and several ranks."""

from dinov3_ref.loss.clip_loss import clip_loss
from dinov3_ref.loss.dino_clstoken_loss import DINOLoss
from dinov3_ref.loss.gram_loss import GramLoss
from dinov3_ref.loss.ibot_patch_loss import iBOTPatchLoss
from dinov3_ref.loss.koleo_loss import KoLeoLoss, KoLeoLossDistributed
from dinov3_ref.loss.teacher_targets import sinkhorn_knopp

__all__ = [
    "DINOLoss",
    "clip_loss",
    "iBOTPatchLoss",
    "KoLeoLoss",
    "KoLeoLossDistributed",
    "GramLoss",
    "sinkhorn_knopp",
]
