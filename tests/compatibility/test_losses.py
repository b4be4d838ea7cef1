"""Snippets about losses (docs/development/seed.md, S41-S46)."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.loss import DINOLoss, KoLeoLoss, iBOTPatchLoss
from tests.compatibility.snippets import draw


def test_S41_losses_by_name() -> None:
    from dinov3_ref import loss

    assert {"DINOLoss", "KoLeoLoss", "iBOTPatchLoss"} <= set(loss.__all__)


def test_S42_dino_loss() -> None:
    """Logits of one crop [B,K] as in the document, or of several [S,B,K] as in the published code."""
    dino_loss = DINOLoss(out_dim=48)
    student_logits, teacher_probs = draw(4, 48), draw(4, 48, seed=1).softmax(-1)
    wanted = -(teacher_probs * torch.log_softmax(student_logits / 0.1, dim=-1)).sum(-1).mean()
    torch.testing.assert_close(dino_loss(student_logits, teacher_probs), wanted)
    torch.testing.assert_close(dino_loss(student_logits[None], teacher_probs[None]), wanted)


def test_S43_koleo_loss() -> None:
    koleo_loss = KoLeoLoss()
    apart, together = torch.eye(4, 16), torch.eye(4, 16) * 0.1 + 1
    assert koleo_loss(apart) < koleo_loss(together)


def test_S44_ibot_loss_by_out_dim() -> None:
    """`out_dim` or the published name `patch_out_dim`, not both."""
    assert iBOTPatchLoss(out_dim=65536).center.shape == iBOTPatchLoss(patch_out_dim=65536).center.shape
    with pytest.raises(ValueError, match="pass one of them"):
        iBOTPatchLoss(48, out_dim=48)


def test_S45_ibot_loss_without_masks() -> None:
    """Without masks (required by the published code) it is the mean over all patches."""
    ibot_loss = iBOTPatchLoss(out_dim=48)
    student_patches, teacher_patches = draw(4, 6, 48), draw(4, 6, 48, seed=3).softmax(-1)
    everything = torch.ones(4, 6, dtype=torch.bool)
    torch.testing.assert_close(
        ibot_loss(student_patches, teacher_patches), ibot_loss(student_patches, teacher_patches, everything)
    )


def test_S46_losses_together() -> None:
    """The weights of the snippet; published training adds KoLeo of both global crops."""
    dino_loss = DINOLoss(out_dim=48)
    koleo_loss = KoLeoLoss()
    ibot_loss = iBOTPatchLoss(out_dim=48)
    student_logits, teacher_probs = draw(4, 48).requires_grad_(), draw(4, 48, seed=1).softmax(-1)
    student_features = draw(4, 16, seed=2).requires_grad_()
    student_patches, teacher_patches = draw(4, 6, 48).requires_grad_(), draw(4, 6, 48, seed=3).softmax(-1)
    total_loss = (
        1.0 * dino_loss(student_logits, teacher_probs)
        + 0.1 * koleo_loss(student_features)
        + 1.0 * ibot_loss(student_patches, teacher_patches)
    )
    total_loss.backward()
    assert total_loss.isfinite()
    for given in (student_logits, student_features, student_patches):
        assert given.grad is not None
        assert given.grad.abs().sum() > 0
