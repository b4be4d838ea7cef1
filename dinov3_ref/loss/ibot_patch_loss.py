"""iBOT loss: the student predicts the teacher's patch tokens at masked positions.

Source: Zhou et al., arXiv:2111.07832; docs/spec.md 4.5.
Shapes: B images (crops), P patches, M masked patches of the whole batch, K prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3_ref.errors import ConfigError
from dinov3_ref.loss.precision import at_least_fp32, no_autocast
from dinov3_ref.loss.teacher_targets import TeacherTargets


class iBOTPatchLoss(TeacherTargets):  # noqa: N801  the published name
    """Cross-entropy of patches: mean within each image, then over all images.

    `patch_out_dim` is the number of prototypes; `out_dim` is an alias (docs/development/seed.md S44).
    """

    def __init__(
        self,
        patch_out_dim: int | None = None,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        *,
        out_dim: int | None = None,
    ) -> None:
        if (patch_out_dim is None) == (out_dim is None):
            raise ConfigError(
                f"iBOTPatchLoss got patch_out_dim={patch_out_dim} and out_dim={out_dim}; "
                "both are the number of prototypes, pass one of them"
            )
        super().__init__((1, 1, patch_out_dim or out_dim or 0), center_momentum)
        self.student_temp = student_temp

    def forward(
        self,
        student_patch_tokens: Tensor,
        teacher_patch_tokens: Tensor,
        student_masks_flat: Tensor | None = None,
    ) -> Tensor:
        """Logits and targets [B,P,K], bool masks [B,P] -> scalar: mean over masked patches, then images.

        An image without masked patches counts as 0. Without masks the loss is the mean over all tokens of any
        shape [..., K] (docs/development/seed.md S45).
        """
        entropy = self._cross_entropy(student_patch_tokens, teacher_patch_tokens)
        if student_masks_flat is None:
            return entropy.mean()
        weights_BP = student_masks_flat.to(entropy.dtype)
        per_image_B = (entropy * weights_BP).sum(-1) / weights_BP.sum(-1).clamp(min=1)
        return per_image_B.mean()

    def forward_masked(
        self,
        student_patch_tokens_masked: Tensor,
        teacher_patch_tokens_masked: Tensor,
        student_masks_flat: Tensor,
        n_masked_patches: int | None = None,
        masks_weight: Tensor | None = None,
    ) -> Tensor:
        """`forward` for masked patches only: logits and targets [M,K], bool masks [B,P] -> scalar.

        Row m belongs to the m-th true entry of the masks. masks_weight: [M], 1 / masked patches of the row's
        image; computed from the masks if None. n_masked_patches: rows that count, if the rest is padding.
        """
        if masks_weight is None:
            masks_weight = weights_of_masks(student_masks_flat)
        entropy_M = self._cross_entropy(student_patch_tokens_masked, teacher_patch_tokens_masked)
        if n_masked_patches is not None:
            entropy_M, masks_weight = entropy_M[:n_masked_patches], masks_weight[:n_masked_patches]
        return (entropy_M * masks_weight).sum() / student_masks_flat.shape[0]

    def _cross_entropy(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Logits and targets [..., K] -> -Σ_k target · log softmax(logits / student_temp), [...]."""
        with no_autocast(student):
            log_probs = torch.log_softmax(at_least_fp32(student) / self.student_temp, dim=-1)
            return -(teacher.to(log_probs.dtype) * log_probs).sum(-1)


def weights_of_masks(masks_BP: Tensor) -> Tensor:
    """Bool masks [B,P] -> [M], for each masked patch 1 / masked patches of its image."""
    count_B1 = masks_BP.sum(-1, keepdim=True).clamp(min=1)
    return (1.0 / count_B1).expand_as(masks_BP)[masks_BP]
